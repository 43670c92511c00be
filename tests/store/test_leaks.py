"""The leak audit: copies of a recording are found whatever their names, takes are not, folds keep copies together."""

import csv
import json
import re

import numpy as np
import pytest
import soundfile

from src import experiments, stream
from src.competition.open import open_competition
from src.preprocess import preprocess
from src.runs.plan import make_plan
from src.settings.config import Features
from src.store.fingerprint import is_same, similarity
from src.store.leaks import joined_groups, leak_warning, read_leaks
from src.store.store import Store
from tests.support.competitions import SPEAKERS, second_microphone, sentence, write_audio

pytestmark = pytest.mark.usefixtures("workspace")


@pytest.fixture
def directory(tmp_path):
    """A competition: 3 speakers x 6 takes, 3 test files, no recording twice."""
    directory = tmp_path / "toy_leaks"
    for s, speaker in enumerate(SPEAKERS):
        (directory / "train" / speaker).mkdir(parents=True)
        for take in range(6):
            write_audio(directory / f"train/{speaker}/{take}.wav", sentence(s, take))
    (directory / "test").mkdir()
    for s in range(3):
        write_audio(directory / f"test/{s}.wav", sentence(s, 10))
    return directory


def leaks_of(directory, **features):
    store = preprocess(open_competition(directory), Features(**features), 2)
    found = {}
    for leak in read_leaks(store):
        found.setdefault(leak.recording, {})[leak.utt_id] = leak.how
    return store, sorted(map(sorted, (own.items() for own in found.values())))


@pytest.mark.parametrize("kind", ["logmel", "waveform"])
def test_different_takes_are_no_leak_and_the_folds_stay_as_they_were(directory, kind):
    store_dir, found = leaks_of(directory, store=kind)
    assert found == []
    assert (store_dir / "leaks.csv").read_text() == "recording,utt_id,split,speaker,how\n"
    assert Store.open(store_dir).groups == [""] * 21
    assert "leaks" not in json.loads((store_dir / "meta.json").read_text())


@pytest.mark.parametrize("kind", ["logmel", "waveform"])
def test_copies_are_found_whatever_their_names(directory, capsys, kind):
    (directory / "test/x.wav").write_bytes((directory / "train/anna/0.wav").read_bytes())
    soundfile.write(directory / "train/anna/y.flac", *soundfile.read(directory / "train/anna/1.wav", dtype="int16"))
    write_audio(directory / "test/z.wav", 0.2 * sentence(1, 2))
    write_audio(directory / "train/carl/w.wav", second_microphone(sentence(2, 3)))
    _, found = leaks_of(directory, store=kind)
    level = dict(next(own for own in found if ("test/z.wav" in dict(own) or "z.wav" in dict(own))))
    assert [[(name.removeprefix("train/"), how) for name, how in own] for own in found if dict(own) != level] == [
        [("anna/0.wav", "same bytes"), ("x.wav", "same bytes")],
        [("anna/1.wav", "same sound"), ("anna/y.flac", "same sound")],
        [("carl/3.wav", "alike"), ("carl/w.wav", "alike")]]
    assert set(level) == {"train/bert/2.wav", "z.wav"}  # the peak is set to -3 dB: the same sound but for rounding
    said = capsys.readouterr().out
    assert re.search(r"preprocess: 4 recordings stand there more than once, as 8 utterances \(2 same bytes, .*alike\)",
                     said)
    assert "; 2 test utterances are in the training part too (all in " in said


def test_one_recording_under_two_speakers_is_told(directory, capsys):
    write_audio(directory / "train/bert/x.wav", sentence(0, 4))
    leaks_of(directory)
    assert "1 recording is given to several speakers" in capsys.readouterr().out


def test_copies_within_the_training_part_are_never_on_both_sides_of_a_fold(directory):
    for s, speaker in enumerate(SPEAKERS):
        for take in range(3):
            write_audio(directory / f"train/{speaker}/{take}x.flac", second_microphone(sentence(s, take), take))
    store_dir, found = leaks_of(directory)
    assert len(found) == 9
    store = Store.open(store_dir)
    for train_rows, valid_rows in store.folds(3):
        takes = [{re.sub("x?[.].*", "", store.utt_ids[row]) for row in rows} for rows in (train_rows, valid_rows)]
        assert takes[1]
        assert not takes[0] & takes[1]
    leaking = make_plan("toy_leaks", store_dir, experiments.get("quick")).digest
    meta = json.loads((store_dir / "meta.json").read_text())
    del meta["leaks"]
    (store_dir / "meta.json").write_text(json.dumps(meta))  # as a version without the audit made it
    assert make_plan("toy_leaks", store_dir, experiments.get("quick")).digest != leaking
    with open(store_dir / "table.csv", encoding="utf-8", newline="") as file:
        assert {row["group"] for row in csv.DictReader(file)} == {""}  # what the competition says stays as it is


def test_the_expected_score_says_how_many_test_utterances_leaked(directory, capsys, monkeypatch):
    (directory / "test/x.wav").write_bytes((directory / "train/anna/0.wav").read_bytes())
    store_dir, _ = leaks_of(directory)
    monkeypatch.setattr("src.shift.judge.verdict_on", lambda store: type("Verdict", (), {"is_shifted": False})())
    monkeypatch.setattr("src.shift.judge.expect", lambda blend, store, verdict: "expected: 0.9")
    stream._say_what_to_expect(None, store_dir)
    assert "expected: 0.9; 1 of 4 test utterances are recordings that the training part holds too" in \
        capsys.readouterr().out
    assert leak_warning([], 4) == ""


def test_silence_and_single_words_are_no_recordings(directory):
    for name in ("train/anna/silent.wav", "train/bert/silent.wav"):
        write_audio(directory / name, np.zeros(16000, np.float32))
    short = sentence(0, 20, 0.25)
    write_audio(directory / "train/anna/short.wav", short)
    write_audio(directory / "test/short.wav", second_microphone(short))
    assert leaks_of(directory)[1] == []


def test_groups_that_share_a_recording_become_one():
    assert joined_groups(["a", "", "b", "c", "", ""], ["1", "1", "2", "", "3", ""]) == ["a", "a", "b", "c", "", ""]
    assert joined_groups(["a", "b", "b", "c"], ["1", "1", "2", "2"]) == ["a", "a", "a", "a"]
    assert joined_groups(["", "", "c"], ["1", "1", ""]) == ["copies of 1", "copies of 1", "c"]


def test_similarity_allows_for_an_offset_and_sees_another_take():
    rng = np.random.default_rng(0)
    frames = np.cumsum(rng.standard_normal((200, 40)), 0).astype(np.float16)
    assert similarity(frames[7:], frames[:-7] + 3) > 0.95
    assert is_same(frames[7:], frames[:-7] + 3)
    assert not is_same(frames, frames[:150])
    assert not is_same(frames[:20], frames[:20])
    take = np.cumsum(rng.standard_normal((200, 40)), 0)
    assert similarity(frames, take) < 0.3
    assert not is_same(frames, take)
