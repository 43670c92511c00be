"""Tiny competitions of the three kinds, written into tmp_path, and a workspace of their own for what tests write."""

import hashlib
import json
import os

import numpy as np
import pytest
import torch

from tests.support.competitions import SPEAKERS, voice, write_audio, write_table

# Folds are trained in the process of the test, which can look in, and without the seconds that another one takes to
# start; tests of folds side by side remove the variable.
os.environ["SPEAKER_ID_FOLDS_AT_ONCE"] = "1"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Send everything that is written to tmp_path, and return it."""
    monkeypatch.setenv("SPEAKER_ID_WORKSPACE", str(tmp_path))
    return tmp_path


@pytest.fixture
def frames_dir(tmp_path):
    """A competition of kind "frames": 3 speakers x 6 training utterances and 5 test utterances of 4 cepstra."""
    directory, rng = tmp_path / "toy_frames", np.random.default_rng(0)
    directory.mkdir()
    table = [("utt_id", "split", "speaker", "num_frames")]
    table += [(f"train_{i}", "train", SPEAKERS[i % 3], 5 + i) for i in range(18)]
    table += [(f"test_{i}", "test", "", 6 + i) for i in range(5)]
    write_table(directory / "frames.csv", table)
    np.save(directory / "frames.npy", rng.standard_normal((sum(row[3] for row in table[1:]), 4)).astype(np.float32))
    return directory


@pytest.fixture
def course_dir(tmp_path):
    """A competition in the course's format: 3 speakers x 6 training utterances and 4 test utterances of 40 log-mels."""
    directory, rng = tmp_path / "toy_course", np.random.default_rng(1)
    directory.mkdir()

    def entry(speaker, take):
        name = f"uttr-{hashlib.md5(f'{speaker}/{take}'.encode()).hexdigest()}.pt"
        num_frames = int(rng.integers(30, 60))
        frames = -8 + 2 * np.sin(np.arange(40) * (1 + speaker)) + rng.standard_normal((num_frames, 40))
        torch.save(torch.from_numpy(frames.astype(np.float32)), directory / name)
        return {"feature_path": name, "mel_len": num_frames}

    order = ("carl", "anna", "bert")  # neither the metadata's order nor the alphabet's decides the class index
    (directory / "mapping.json").write_text(json.dumps({
        "speaker2id": {name: i for i, name in enumerate(order)},
        "id2speaker": {str(i): name for i, name in enumerate(order)}}))
    (directory / "metadata.json").write_text(json.dumps({
        "n_mels": 40, "speakers": {n: [entry(i, take) for take in range(6)] for i, n in enumerate(SPEAKERS)}}))
    (directory / "testdata.json").write_text(json.dumps({
        "n_mels": 40, "utterances": [entry(take % 3, 10 + take) for take in range(4)]}))
    return directory


@pytest.fixture
def audio_dir(tmp_path):
    """A folder of audio: 3 speakers x 6 training utterances in five formats and 4 test utterances."""
    directory, endings = tmp_path / "toy_audio", ("wav", "flac", "opus", "ogg", "mp3", "wav")
    for i, name in enumerate(SPEAKERS):
        (directory / "train" / name).mkdir(parents=True)
        for take, ending in enumerate(endings):
            write_audio(directory / "train" / name / f"{take}.{ending}", voice(i, take, 0.5 + 0.05 * take))
    (directory / "test").mkdir()
    for take in range(4):
        write_audio(directory / "test" / f"t{take}.wav", voice(take % 3, 10 + take, 0.6))
    rows = [(f"t{i}.wav", "anna") for i in (2, 0, 3, 1)]
    write_table(directory / "sample_submission.csv", [("Id", "Category"), *rows])
    return directory
