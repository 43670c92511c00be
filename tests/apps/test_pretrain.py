"""Pretraining as a command: an encoder file that train takes, exact resume, its row, and what it refuses."""

import argparse
import csv

import numpy as np
import pytest
import soundfile
import torch

from src import experiments
from src.apps.pretrain import command as pretrain
from src.apps.pretrain.plan import Pretraining, make_plan
from src.apps.pretrain.run import quantiser_temperature, run
from src.base.errors import InputError, RunError, SettingError
from src.base.files import read_json
from src.competition.open import open_competition
from src.ledger import file as ledger
from src.model.encoders.wav2vec2 import save_encoder
from src.runs.plan import hash_weights
from src.runs.plan import make_plan as make_speaker_plan
from src.settings.config import override, part
from src.settings.parts import build, essential
from src.store.store import Store
from src.training.loop import Loop
from src.training.run import run as train_speakers
from tests.support.competitions import SPEAKERS, voice

ENCODER = {"size": "small", "channels": 8, "d_model": 8, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 12}
TINY = {"train.steps": 6, "train.batch_size": 3, "train.crop_frames": 60, "train.threads": 1, "train.device": "cpu",
        "pretrain.num_entries": 8, "pretrain.code_dim": 8, "train.valid_every": 2}


@pytest.fixture
def speech_dir(tmp_path):
    """A folder of audio: 3 speakers x 3 training utterances and 2 test utterances, 0.5 to 0.8 s."""
    directory = tmp_path / "toy_speech"
    for i, name in enumerate(SPEAKERS):
        (directory / "train" / name).mkdir(parents=True)
        for take in range(3):
            soundfile.write(directory / "train" / name / f"{take}.wav", voice(i, take, 0.5 + 0.1 * take), 16000)
    (directory / "test").mkdir()
    for take in range(2):
        soundfile.write(directory / "test" / f"t{take}.wav", voice(take, 10 + take, 0.6), 16000)
    return directory


def experiment_of(name="wav2vec2"):
    return override(experiments.get("course"), {"encoder": part(name, **ENCODER), "features.store": "waveform"})


def plan_of(directory, name="wav2vec2", **changes):
    return make_plan(open_competition(directory), experiment_of(name), TINY | changes)


def pretrain_run(directory, name="wav2vec2", **changes):
    plan = plan_of(directory, name, **changes)
    return plan, run(plan)


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2_decoder"])
def test_a_stopped_pretraining_ends_in_the_same_bytes(speech_dir, workspace, monkeypatch, name):
    plan, result = pretrain_run(speech_dir, name, **{"pretrain.negatives": 4})
    kept = {path.name: path.read_bytes() for path in plan.directory.glob("*.*") if path.suffix in (".csv", ".pt")}
    assert set(kept) == {"log.csv", "encoder.pt"}, "the loop's own file is gone when the run is done"
    assert (plan.directory / "curves.png").read_bytes().startswith(b"\x89PNG")
    for path in plan.directory.glob("*.*"):
        path.unlink()

    class Killed(Exception):
        pass

    step = Loop._step

    def kill_at_three(loop, number, *rest):
        if number == 3:
            raise Killed
        return step(loop, number, *rest)

    monkeypatch.setattr(Loop, "_step", kill_at_three)
    with pytest.raises(Killed):
        run(plan)
    assert {path.name for path in plan.directory.glob("*.pt")} == {"last.pt"}
    monkeypatch.setattr(Loop, "_step", step)
    again = run(plan)
    for file_name, content in kept.items():
        assert (plan.directory / file_name).read_bytes() == content, file_name
    assert {**again, "seconds": 0, "finished": 0} == {**result, "seconds": 0, "finished": 0}


def test_the_log_holds_every_figure_and_all_audio_is_heard(speech_dir, workspace, monkeypatch):
    heard, crops = set(), Store.crops

    def remember(store, rows, starts, num_frames):
        heard.update(np.asarray(rows).tolist())
        return crops(store, rows, starts, num_frames)

    monkeypatch.setattr(Store, "crops", remember)
    plan, result = pretrain_run(speech_dir)
    store = Store.open(plan.store_dir)
    assert heard == {*store.train_rows.tolist(), *store.test_rows.tolist()}
    with open(plan.directory / "log.csv", newline="") as file:
        log = list(csv.DictReader(file))
    assert list(log[0]) == ["step", "lr", "loss", "lm", "ld", "accuracy", "positive_similarity", "negative_similarity",
                            "code_perplexity"]
    assert [row["step"] for row in log] == ["2", "4", "6"]
    assert result["train"] == float(log[-1]["accuracy"])
    assert run(plan) == result == read_json(plan.directory / "result.json"), "done once"


def test_train_starts_from_the_encoder_file_and_its_content_names_the_run(speech_dir, workspace):
    plan, _ = pretrain_run(speech_dir)
    path = plan.directory / "encoder.pt"
    encoder = build("encoder", part("wav2vec2", **ENCODER, weights=str(path)), 0)
    written = torch.load(path, weights_only=True)["weights"]
    assert written.keys() == encoder.state_dict().keys()
    assert all(torch.equal(value, written[key]) for key, value in encoder.state_dict().items())

    def named(weights):
        settings = essential(override(plan.experiment, {"encoder.weights": weights}))
        return hash_weights(settings)["encoder"].get("weights")

    copy = workspace / "copy.pt"
    copy.write_bytes(path.read_bytes())
    assert named(str(copy)) == named(str(path)) != ""
    assert named("") is None
    assert "weights" not in essential(plan.experiment)["encoder"], "nothing changes for runs without weights"
    with torch.no_grad():
        encoder.norm.weight += 1
    save_encoder(copy, encoder)
    assert named(str(copy)) != named(str(path))
    with pytest.raises(InputError, match=r"encoder\.weights: .*none\.pt.*pretrain"):
        named(str(workspace / "none.pt"))
    again = plan_of(speech_dir, **{"encoder.weights": str(path)})
    assert again.digest != plan.digest, "pretraining may itself go on from an encoder"


def test_a_speaker_run_begins_with_the_pretrained_weights(speech_dir, workspace):
    plan, _ = pretrain_run(speech_dir, "wav2vec2_decoder")
    path = plan.directory / "encoder.pt"
    experiment = override(experiment_of("wav2vec2_decoder"), {
        "encoder.weights": str(path), "optim.lr": 0.0, "folds": "all", "train.steps": 1, "train.batch_size": 3,
        "train.crop_frames": 60, "train.threads": 1, "train.device": "cpu"})
    speakers = make_speaker_plan(plan.competition, plan.store_dir, experiment)
    train_speakers(speakers, Store.open(plan.store_dir))
    found = torch.load(speakers.directory / "fold_0" / "model.pt", weights_only=True)["model"]
    for key, value in torch.load(path, weights_only=True)["weights"].items():
        assert torch.equal(found[f"encoder.{key}"], value), key  # a learning rate of zero leaves what it began with


def test_every_setting_that_matters_names_another_run(speech_dir, workspace):
    changes = [{}, {"pretrain.negatives": 100}, {"pretrain.diversity": 0.1}, {"seed": 1}, {"train.steps": 7},
               {"train.batch_size": 4}, {"encoder.dropout": 0.0}, {"optim.lr": 1e-3}]
    digests = [plan_of(speech_dir, **change).digest for change in changes]
    assert len(set(digests)) == len(changes)
    assert plan_of(speech_dir, "wav2vec2_decoder").digest not in digests
    plan = plan_of(speech_dir, **{"train.valid_every": "auto", "train.steps": 500})
    assert plan.experiment.train.valid_every == 5
    assert plan.experiment.optim.warmup_steps == 50


def test_the_quantiser_is_annealed_to_a_floor():
    usual = Pretraining()
    assert quantiser_temperature(0, usual) == 2.0
    assert quantiser_temperature(1000, usual) == pytest.approx(2 * 0.999995**1000)
    assert quantiser_temperature(10**6, usual) == 0.5


@pytest.mark.parametrize(("changes", "said"), [
    ({"pretrain.negative": 3}, r"pretrain\.negative: unknown setting.*did you mean 'negatives'"),
    ({"pretrain.negatives": "some"}, r"pretrain\.negatives: 'some' is not"),
    ({"pretrain.negatives": 0}, "at least 1"),
    ({"pretrain.mask_share": 0.0}, "mask_share"),
    ({"pretrain.code_dim": 7}, "not divided by"),
    ({"pretrain.temperature": -1.0}, "temperatures"),
    ({"pooling": "max"}, r"pooling: pretraining does not use this setting"),
    ({"train.mixup": 0.2}, r"train\.mixup: pretraining does not use"),
    ({"encoder": "transformer"}, "cannot be pretrained"),
    ({"encoder": part("wav2vec2_decoder", rate=0.1), "pretrain.mask_span": 9}, r"mask_span=9: .* make it 10 at least"),
])
def test_what_pretraining_cannot_use_stops(speech_dir, workspace, changes, said):
    with pytest.raises(SettingError, match=said):
        plan_of(speech_dir, **changes)
    assert not (workspace / "data").exists(), "before anything is read"


def test_the_command_records_one_row_and_a_failure_another(speech_dir, workspace, monkeypatch, capsys):
    monkeypatch.setitem(experiments.EXPERIMENTS, "toy", ("course", "toy", {"encoder": part("wav2vec2", **ENCODER)}))
    parser = argparse.ArgumentParser()
    pretrain.add_arguments(parser)
    settings = [word for key, value in TINY.items() if key != "train.steps" for word in ("--set", f"{key}={value}")]
    command = ["--data", str(speech_dir), "--experiment", "toy", "--steps", "4", *settings]
    for _ in range(2):
        pretrain.main(parser.parse_args(command))
    rows = ledger.read()
    assert len(rows) == 1, "a finished run is recorded once"
    row, out = rows[0], capsys.readouterr().out
    assert (row["stage"], row["metric"], row["encoder"], row["status"]) == \
        ("pretrain", "contrastive accuracy", "wav2vec2", "ok")
    assert row["run_id"].startswith("toy_speech/pretrain-toy-")
    assert (row["head"], row["pooling"], row["folds"], row["steps"]) == ("", "", "", "4")
    assert "pretrain.num_entries: 320 → 8" in row["changed"]
    assert "skipped" in out
    assert f"--set encoder.weights={workspace}" in out
    with pytest.raises(RunError, match="not finite"):
        pretrain.main(parser.parse_args([*command, "--set", "optim.lr=1e30", "--set", "optim.warmup_steps=0"]))
    failed = ledger.read()[-1]
    assert (failed["status"], failed["metric"], failed["stage"]) == ("failed", "contrastive accuracy", "pretrain")
    assert failed["group"] != row["group"]
