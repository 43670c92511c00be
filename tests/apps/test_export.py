"""Exported models: the same answers as the run's models, at lengths and batch sizes that were never traced, no torch.

Skipped where the optional packages are missing: pip install onnx onnxscript onnxruntime soxr
"""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from src import experiments
from src.apps.export import command, onnx_graph
from src.apps.export import run as export
from src.apps.predict.fold_models import FoldModels
from src.apps.predict.onnx_model import OnnxModel
from src.apps.predict.recordings import Recording, read_recording
from src.base.errors import InputError, RunError, SettingError
from src.competition.open import open_competition
from src.model.frontend import LogMel
from src.preprocess import preprocess
from src.runs.folder import Run
from src.runs.logits import read_logits
from src.runs.plan import make_plan
from src.settings.config import Features, override, part
from src.settings.parts import catalogue
from src.store.store import Store
from src.training.run import run as train
from tests.support.competitions import SPEAKERS, voice, write_audio, write_table

for package in ("onnx", "onnxscript", "onnxruntime", "soxr"):
    pytest.importorskip(package, reason=f"{package} is not installed; pip install onnx onnxscript onnxruntime soxr")

ROOT = Path(__file__).parents[2]
TINY = {"encoder": part("transformer", d_model=16, num_heads=2, feed_forward_dim=32), "train.steps": 20,
        "train.batch_size": 8, "train.crop_frames": 20, "train.threads": 1, "train.device": "cpu", "folds": 2,
        "optim.lr": 5e-3, "frontend.mean_norm": True}
SMALL = {  # settings that keep an encoder quick to export; one that is not named here is exported at its defaults
    "transformer": {"d_model": 16, "num_layers": 1, "feed_forward_dim": 24, "positional": "sinusoidal"},
    "conformer": {"d_model": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 24, "kernel_size": 7},
    "branchformer": {"d_model": 16, "num_layers": 1, "num_heads": 2, "cgmlp_dim": 24, "kernel_size": 7},
    "logmel_cnn": {"dim": 16},
    "ecapa_tdnn": {"channels": 16, "scale": 2, "aggregate_dim": 24, "se_dim": 8},
    "lab_transformer": {"d_model": 16, "num_layers": 1},
    "lab_conformer": {"d_model": 16, "num_layers": 1, "kernel_size": 7},
    "resnet34": {"base_channels": 8},
    "campplus": {"growth_rate": 4, "init_channels": 8, "blocks": (1, 1, 1)},
}


def trained(directory, **changes):
    """Train a tiny run and return it."""
    competition = open_competition(directory)
    experiment = override(experiments.get("course"), TINY | changes)
    plan = make_plan(competition.name, preprocess(competition, experiment.features), experiment)
    train(plan, Store.open(plan.store_dir))
    return Run.open(plan.run_id)


def call(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.main(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """A run of two folds on log-mels of audio, and what `export --int8` made of it and said."""
    root = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEAKER_ID_WORKSPACE", str(root))
        for i, name in enumerate(SPEAKERS):
            (root / "toy" / "train" / name).mkdir(parents=True)
            for take in range(4):
                write_audio(root / "toy" / "train" / name / f"{take}.wav", voice(i, take, 0.5 + 0.05 * take))
        run = trained(root / "toy")
        yield root, run


@pytest.fixture(scope="module")
def said(audio):
    """What `export --int8` said when it wrote model.onnx of the run."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
        patch.setenv("SPEAKER_ID_WORKSPACE", str(audio[0]))
        call(audio[1].run_id, "--onnx", audio[0] / "model.onnx", "--int8")
    return output.getvalue()


@pytest.fixture
def exported(audio, said):
    """The file that it wrote."""
    return audio[0] / "model.onnx"


@pytest.fixture
def frames_run(tmp_path_factory, monkeypatch):
    """A run of one fold on frames of four cepstra."""
    root, rng = tmp_path_factory.mktemp("frames"), np.random.default_rng(0)
    monkeypatch.setenv("SPEAKER_ID_WORKSPACE", str(root))
    table = [(f"train_{i}", "train", SPEAKERS[i % 3], 5 + i) for i in range(15)]
    (root / "toy").mkdir()
    write_table(root / "toy" / "frames.csv", [("utt_id", "split", "speaker", "num_frames"), *table])
    frames = rng.standard_normal((sum(row[3] for row in table), 4)).astype(np.float32)
    np.save(root / "toy" / "frames.npy", frames)
    return trained(root / "toy", folds=1, **{"train.steps": 2})


@pytest.mark.parametrize("changes", [{}, {"win_length": 301, "hop_length": 123, "num_mels": 23, "f_min": 0.0}])
def test_the_convolution_gives_the_log_mels_of_the_fourier_transform(changes):
    features = Features(**changes)
    truth, graph = LogMel(features), LogMel(features)
    graph.mel = onnx_graph.MelByConvolution(graph.mel)
    waveform = torch.from_numpy(np.stack([voice(0, 1, 0.9), voice(2, 2, 0.9)]))
    lengths = torch.tensor([14400, 7777])
    for given in (None, lengths):
        np.testing.assert_allclose(graph(waveform, given).numpy(), truth(waveform, given).numpy(), atol=2e-3)


def test_the_file_answers_as_the_models_do_at_any_length_and_batch(audio, exported):
    models, model = FoldModels(audio[1], device="cpu"), OnnxModel(exported)
    assert model.card == onnx_graph.replace_inputs(models.card, True, models.input_dim)
    assert model.card.num_calibrated == 12
    pieces = [Recording(voice(i % 3, 20 + i, seconds), 16000) for i, seconds in enumerate((0.002, 0.4, 1.7, 5.0))]
    truth, energies = models.answer(pieces)
    log_probs, found = model.answer(pieces)
    np.testing.assert_allclose(log_probs, truth, atol=5e-4)
    np.testing.assert_allclose(found, energies, atol=2e-3)
    waveforms = [model.prepare(piece) for piece in pieces]
    padded = np.full((4, 90000), 0.3, np.float32)  # what lies behind an utterance's end must not be heard
    for row, waveform in zip(padded, waveforms):
        row[: len(waveform)] = waveform
    together, _ = model.run(padded, np.array([len(waveform) for waveform in waveforms]))
    np.testing.assert_allclose(together, truth, atol=5e-4)


def test_predict_runs_on_the_file_without_torch_in_the_process(audio, exported, tmp_path):
    write_audio(tmp_path / "a.wav", voice(0, 30, 1.1))
    write_audio(tmp_path / "b.flac", voice(1, 31, 1.2, 44100), 44100)
    write_audio(tmp_path / "long.wav", voice(2, 32, 23.0))
    (tmp_path / "torn.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:3000])
    code = ("import argparse, sys\nfrom src.apps.predict import command as predict\n"
            "from src.base.errors import InputError\n"
            "parser = argparse.ArgumentParser()\npredict.add_arguments(parser)\n"
            "try: predict.main(parser.parse_args())\nexcept InputError as error: print(error, file=sys.stderr)\n"
            "print('torch' in sys.modules, file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), "--onnx", str(exported), "--json"],
                          capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stderr.splitlines()[-1] == "False", done.stderr
    assert "1 of 4 files could not be answered" in done.stderr
    content, models = json.loads(done.stdout), FoldModels(audio[1], device="cpu")
    assert [Path(item["file"]).name for item in content["skipped"]] == ["torn.wav"]
    for item, tolerance in zip(content["files"], (5e-4, 2e-2, 5e-4)):  # soxr's filter is not torchaudio's
        recording = read_recording(Path(item["file"]), models.card)
        if item["length_s"] < 20:
            truth = np.exp(models.answer([recording])[0][0])
            found = {top["speaker"]: top["probability"] for top in item["top"]}
            np.testing.assert_allclose([found[name] for name in SPEAKERS], truth, atol=tolerance)
        else:
            assert item["timeline"][-1]["end_s"] == 23.0


def test_the_quantised_file_is_scored_beside_the_other_on_held_out_utterances(audio, exported, said, monkeypatch):
    monkeypatch.setenv("SPEAKER_ID_WORKSPACE", str(audio[0]))
    run = audio[1]
    held_out = [read_logits(fold.valid_path) for fold in run.folds]
    labels = Store.open(run.store_dir()).labels
    right = sum((logits.argmax(1) == labels[rows]).sum() for rows, logits in held_out)
    found = re.search(r"out-of-fold accuracy: ([\d.]+), with 8 bits ([\d.]+) \(12 held-out utterances\)", said)
    assert float(found[1]) == pytest.approx(right / 12, abs=5e-5), "the file's own accuracy is the run's"
    assert 0 <= float(found[2]) <= 1
    assert "agrees with the models to" in said
    quantised = OnnxModel(exported.with_suffix(".int8.onnx"))
    assert quantised.card == OnnxModel(exported).card
    assert quantised.session.get_inputs()[0].shape[1] != 431
    import onnx

    tensors = onnx.load(exported.with_suffix(".int8.onnx")).graph.initializer
    kinds = {tensor.name: tensor.data_type for tensor in tensors}
    assert onnx.TensorProto.UINT8 in kinds.values()
    assert all(kind == onnx.TensorProto.FLOAT for name, kind in kinds.items() if name.startswith("log_mel."))


def test_weights_of_a_usual_size_are_quantised(audio, tmp_path, monkeypatch):
    monkeypatch.setenv("SPEAKER_ID_WORKSPACE", str(audio[0]))
    wide = {"encoder": part("ecapa_tdnn", channels=64, scale=2, aggregate_dim=96), "train.steps": 2, "folds": 1}
    models = FoldModels(trained(audio[0] / "toy", **wide), device="cpu")
    whole, small = tmp_path / "whole.onnx", tmp_path / "small.onnx"
    assert export.export(models, False, whole) < export.LARGEST_DIFFERENCE
    export.quantise(whole, small)
    assert small.stat().st_size < 0.6 * whole.stat().st_size


def test_one_fold_and_frames(frames_run, tmp_path, capsys):
    call(frames_run.run_id, "--onnx", tmp_path / "one.onnx", "--fold", 0)
    said = capsys.readouterr().out
    assert "fold 0" in said
    assert "frames in" in said
    assert "agrees with the models to" in said
    model, models = OnnxModel(tmp_path / "one.onnx"), FoldModels(frames_run, device="cpu")
    pieces = [Recording(np.random.default_rng(n).standard_normal((n, 4)).astype(np.float32), 0.0) for n in (1, 2, 33)]
    np.testing.assert_allclose(model.answer(pieces)[0], models.answer(pieces)[0], atol=5e-4)
    with pytest.raises(Exception, match="has the folds 0 to 0"):
        call(frames_run.run_id, "--onnx", tmp_path / "no.onnx", "--fold", 1)


def test_a_run_that_answers_by_crops_too_is_refused(frames_run, tmp_path):
    run = trained(frames_run.directory.parents[3] / "toy", folds=1, **{"train.steps": 1, "infer.crops": 3})
    with pytest.raises(SettingError, match=r"infer\.crops=3, and an exported file sees utterances whole"):
        call(run.run_id, "--onnx", tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_is_not_the_model_is_never_kept(audio, exported, tmp_path, monkeypatch):
    models = FoldModels(audio[1], device="cpu")
    models.card = replace(models.card, temperature=1.1 * models.card.temperature)
    monkeypatch.setattr(export, "write_graph", lambda graph, inputs, card, path: shutil.copy(exported, path))
    with pytest.raises(RunError, match="differs from the models by"):
        export.export(models, True, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("fault", "said"), [
    (lambda frames: frames + torch.zeros(onnx_graph.EXAMPLE_FRAMES, 1), "cannot run 1 utterances of 97 frames"),
    (lambda frames: frames * 2 if frames.sum().item() > 0 else frames, "encoder 'transformer' cannot be exported"),
], ids=("a length baked in", "a branch on values"))
def test_a_graph_that_fits_one_utterance_only_is_refused(frames_run, tmp_path, monkeypatch, fault, said):
    forward = onnx_graph.SpeakerGraph.forward
    monkeypatch.setattr(onnx_graph.SpeakerGraph, "forward",
                        lambda graph, inputs, lengths: forward(graph, fault(inputs), lengths))
    with pytest.raises(RunError, match=said):
        call(frames_run.run_id, "--onnx", tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_foreign_files_and_missing_packages_are_clear_errors(tmp_path, monkeypatch):
    (tmp_path / "text.onnx").write_text("no model")
    for name in ("text.onnx", "gone.onnx"):
        with pytest.raises(InputError, match=f"{name}: not a model that `export`"):
            OnnxModel(tmp_path / name)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RunError, match="pip install onnx onnxscript onnxruntime soxr"):
        OnnxModel(tmp_path / "text.onnx")


@pytest.mark.campaign
@pytest.mark.parametrize("name", [name for name, item in catalogue("encoder").items() if item.takes == "frames"])
def test_every_encoder_exports_and_agrees_at_a_second_length(tmp_path, frames_run, name):
    changes = {"encoder": part(name, **SMALL.get(name, {})), "pooling": "attentive_statistics",
               "head": "aam_softmax", "embedding.batch_norm": True}
    run = trained(frames_run.directory.parents[3] / "toy", folds=1, **{"train.steps": 1}, **changes)
    models = FoldModels(run, device="cpu")
    assert export.export(models, False, tmp_path / "model.onnx") < export.LARGEST_DIFFERENCE
    model = OnnxModel(tmp_path / "model.onnx")
    pieces = [Recording(np.random.default_rng(n).standard_normal((n, 4)).astype(np.float32), 0.0)
              for n in (1, 7, 200, 201, 650)]
    np.testing.assert_allclose(model.answer(pieces)[0], models.answer(pieces)[0], atol=5e-4)


@pytest.mark.campaign
def test_a_run_on_waveforms_exports(audio, tmp_path, monkeypatch):
    monkeypatch.setenv("SPEAKER_ID_WORKSPACE", str(audio[0]))
    run = trained(audio[0] / "toy", **{"features.store": "waveform", "train.steps": 2, "folds": 1})
    models = FoldModels(run, device="cpu")
    assert export.export(models, True, tmp_path / "model.onnx") < export.LARGEST_DIFFERENCE
    assert export.out_of_fold_accuracy(run)[0] == len(run.held_out()[0])
    pieces = [Recording(voice(i, 20 + i, seconds), 16000) for i, seconds in enumerate((0.01, 0.4, 3.0))]
    log_probs, _ = OnnxModel(tmp_path / "model.onnx").answer(pieces)
    np.testing.assert_allclose(log_probs, models.answer(pieces)[0], atol=5e-4)
