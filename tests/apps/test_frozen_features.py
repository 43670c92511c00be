"""Frozen features: the same as from the waveform at any length, worked out once, only where nothing of them learns."""

import numpy as np
import pytest
import soundfile
import torch

from src.apps.ctc import frozen_features
from src.apps.ctc import run as ctc_run
from src.apps.ctc.ctc import CTCModel
from src.apps.ctc.plan import TASK, make_plan
from src.competition.open import open_competition
from src.experiments import get
from src.model import finetune
from src.model.encoders.wav2vec2 import FeatureEncoder, frame_lengths
from src.preprocess import preprocess
from src.settings.config import override, part
from src.settings.parts import build
from src.store.store import Store
from tests.support.competitions import voice, write_table

ENCODER = {"size": "small", "channels": 12, "d_model": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 24}
FROZEN = {"finetune.regime": "freeze_first", "finetune.layers": 0}
NUM_SAMPLES = (300, 400, 719, 720, 4000, 5120, 9001, 12000, 16000, 401)
TEXTS = ("a", "b", "a", "b", "ab", "ba", "aba", "bab", "abab", "b")


@pytest.fixture
def uneven_dir(tmp_path):
    """Five speakers of two utterances each, from less than a frame sees to one second, and a test utterance."""
    directory, rows = tmp_path / "toy_uneven", [("path", "text")]
    for i, (length, text) in enumerate(zip(NUM_SAMPLES, TEXTS)):
        path = directory / "train" / f"s{i // 2}" / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, voice(i // 2, i, 1.0)[:length], 16000)
        rows.append((f"train/s{i // 2}/{i}.wav", text))
    (directory / "test").mkdir()
    soundfile.write(directory / "test" / "t.wav", voice(0, 99, 0.5), 16000)
    write_table(directory / "transcripts.csv", rows)
    return directory


def experiment_of(name="wav2vec2", **changes):
    return override(get("course"), TASK.start | {"encoder": part(name, **ENCODER), "train.device": "cpu",
                                            "infer.frame_budget": 150} | FROZEN | changes)


def open_store(directory, experiment):
    return Store.open(preprocess(open_competition(directory), experiment.features))


@pytest.mark.parametrize(("name", "settings"), [
    ("wav2vec2", FROZEN), ("wav2vec2_decoder", FROZEN),
    ("wav2vec2", {"encoder.freeze_features": True, "encoder.standardise": True, "finetune.regime": "full"})])
def test_a_model_gives_the_same_from_features_as_from_waveforms(uneven_dir, workspace, name, settings):
    torch.manual_seed(0)
    experiment = experiment_of(name, **settings)
    store, model = open_store(uneven_dir, experiment), CTCModel(experiment, 3).eval()
    rows = store.train_rows[1:]
    features = frozen_features.of(store, rows, model.encoder, experiment.train, experiment.infer.frame_budget)
    assert features.num_frames[[store.train_rows[0], *store.test_rows]].tolist() == [0, 0], "rows not asked for"
    assert features.flat.shape == (features.num_frames.sum(), ENCODER["channels"])
    with torch.inference_mode():
        wave, short = store.utterances(rows), features.utterances(rows)
        wanted, lengths = model(wave.inputs, wave.lengths)
        logits, same_lengths = model.from_features(short.inputs, short.lengths)
        assert same_lengths.tolist() == lengths.tolist()
        for row, given, expected, length in zip(rows.tolist(), logits, wanted, lengths.tolist()):
            torch.testing.assert_close(given[:length], expected[:length], rtol=0, atol=1e-5)
            alone = model(store.utterances([row]).inputs, None)[0][0]
            assert len(alone) == length
            torch.testing.assert_close(given[:length], alone, rtol=0, atol=1e-4)


def test_features_that_learn_or_do_not_fit_are_not_kept(uneven_dir, workspace):
    experiment = experiment_of()
    store, frozen = open_store(uneven_dir, experiment), CTCModel(experiment, 3).encoder
    need = 4 * ENCODER["channels"] * int(frame_lengths(torch.from_numpy(store.num_frames[store.train_rows])).sum())

    def kept(encoder, max_bytes):
        return frozen_features.of(store, store.train_rows, encoder, experiment.train, 150, max_bytes) is not None

    assert kept(frozen, need)
    assert not kept(frozen, need - 1)
    learning = CTCModel(experiment_of(**{"finetune.regime": "full"}), 3).encoder
    assert not kept(learning, need)
    for parameter in learning.feature_encoder.parameters():
        parameter.requires_grad_(False)
    assert not kept(learning, need), "the norm behind the convolutions still learns"
    finetune.freeze(learning.feature_norm)
    assert kept(learning, need)
    hubert = build("encoder", part("hubert", size="small"), 0)
    finetune.freeze(hubert)
    assert not kept(hubert, need)


def test_a_frozen_run_convolves_each_utterance_once_and_learns_the_same(uneven_dir, workspace, monkeypatch):
    changes = {"train.steps": 8, "train.batch_size": 2, "train.valid_every": 4, "train.threads": 1,
               "train.device": "cpu", "folds": 1, "infer.frame_budget": 150, "optim.lr": 1e-2, "encoder.dropout": 0.0,
               **FROZEN}
    plan, texts = make_plan(open_competition(uneven_dir), experiment_of(), changes)
    convolved, forward = [], FeatureEncoder.forward

    def counted(encoder, waveform, lengths):
        convolved.append(len(waveform))
        return forward(encoder, waveform, lengths)

    monkeypatch.setattr(FeatureEncoder, "forward", counted)
    results, logs = [], []
    for max_bytes in (frozen_features.MAX_BYTES, 0):
        monkeypatch.setattr(frozen_features.of, "__defaults__", (max_bytes,))
        convolved.clear()
        for path in plan.directory.rglob("*.*"):
            path.unlink()
        results.append(ctc_run.run(plan, texts))
        logs.append(np.genfromtxt(plan.directory / "fold_0" / "log.csv", delimiter=",", names=True))
        assert (sum(convolved) == 10) == (max_bytes > 0), convolved
    for name in logs[0].dtype.names:
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-3, err_msg=name)
    assert results[0]["valid"] == results[1]["valid"]
