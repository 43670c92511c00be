"""The five regimes in the stream: a fold trains, stops, resumes, and its checkpoint rebuilds what was left."""

import json
import shutil

import pytest
import torch

from src import experiments
from src.base.errors import InputError, SettingError
from src.base.files import read_json
from src.competition.open import open_competition
from src.model.checkpoint import load_model
from src.preprocess import preprocess
from src.runs.logits import read_logits
from src.runs.plan import make_plan
from src.settings.config import from_json, override, part, to_json
from src.settings.weights import weights_digest
from src.store.store import Store
from src.training.evaluate import predict
from src.training.run import run as train

REGIMES = {"full": {}, "freeze_first": {"layers": 1}, "embedding_and_last": {}, "first_layers": {"layers": 1},
           "remove_heads": {"remove": 3}}
TINY = {"encoder": part("hubert", size="small", dropout=0.0, layer_drop=0.0), "features.store": "waveform", "folds": 1,
        "train.steps": 4, "train.batch_size": 6, "train.crop_frames": 30, "train.valid_every": 2, "train.threads": 1,
        "train.device": "cpu", "embedding.dim": 16, "head": "linear"}


def plan_of(audio_dir, **changes):
    competition = open_competition(audio_dir)
    experiment = override(experiments.get("course"), {**TINY, **changes})
    return make_plan(competition.name, preprocess(competition, experiment.features), experiment)


def test_regimes_in_the_stream(workspace, audio_dir, capsys):
    sizes, first = {}, {}
    for regime, settings in REGIMES.items():
        plan = plan_of(audio_dir, **{"finetune.regime": regime, **{f"finetune.{k}": v for k, v in settings.items()}})
        result = train(plan, Store.open(plan.store_dir))
        assert f"finetune {regime}: " in capsys.readouterr().out
        fold = plan.directory / "fold_0"
        sizes[regime], first[regime] = (fold / "model.pt").stat().st_size, result["params"]
        model, experiment, _ = load_model(fold / "model.pt")
        store = Store.open(plan.store_dir)
        rows, logits = read_logits(fold / "valid.npz")
        again = predict(model, store, rows, experiment.train, experiment.infer)
        torch.testing.assert_close(torch.from_numpy(again), torch.from_numpy(logits).float(), atol=1e-4, rtol=1e-4)
        if regime == "remove_heads":
            assert len(read_json(fold / "heads.json")["removed"]) == 3
            assert (fold / "heads.png").exists()
    assert sizes["first_layers"] < sizes["remove_heads"] < sizes["full"] == sizes["freeze_first"]
    assert first["first_layers"] < first["remove_heads"] < first["full"]


def test_the_default_regime_changes_no_digest_and_others_do(workspace, audio_dir):
    plain = plan_of(audio_dir)
    content = to_json(plain.experiment)
    del content["finetune"]  # as a checkpoint from before has it
    assert from_json(json.loads(json.dumps(content))) == plain.experiment
    assert plan_of(audio_dir, **{"finetune.layers": 9}).digest == plain.digest
    assert plan_of(audio_dir, **{"finetune.regime": "freeze_first"}).digest != plain.digest
    heads = plan_of(audio_dir, **{"finetune.regime": "remove_heads", "finetune.heads": [[0, 1], (1, 2)]})
    assert heads.experiment.finetune.heads == ((0, 1), (1, 2))


def test_a_run_stopped_after_heads_were_removed_ends_in_the_same_bits(workspace, audio_dir, monkeypatch):
    from src.training import loop

    plan = plan_of(audio_dir, **{"finetune.regime": "remove_heads", "finetune.remove": 2, "seed": 3})
    train(plan, Store.open(plan.store_dir))
    fold = plan.directory / "fold_0"
    expected = (fold / "model.pt").read_bytes()
    heads = (fold / "heads.json").read_bytes()
    for path in fold.iterdir():
        path.unlink()
    (plan.directory / "result.json").unlink()
    whole_step, taken = loop.Loop._step, []

    def stopped(self, step, *arguments):
        if step == 3:
            raise KeyboardInterrupt
        taken.append(step)
        whole_step(self, step, *arguments)

    monkeypatch.setattr(loop.Loop, "_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(plan, Store.open(plan.store_dir))
    monkeypatch.setattr(loop.Loop, "_step", whole_step)
    assert (fold / "heads.json").read_bytes() == heads
    train(plan, Store.open(plan.store_dir))
    assert taken == [0, 1, 2]
    assert (fold / "model.pt").read_bytes() == expected


def test_weights_name_a_run_by_their_content_and_are_read_once(workspace, audio_dir, tmp_path):
    from src.settings.parts import build

    torch.manual_seed(5)
    hubert = build("encoder", TINY["encoder"], 0).hubert
    torch.save(hubert.state_dict(), tmp_path / "a.pt")
    shutil.copy(tmp_path / "a.pt", tmp_path / "b.pt")  # torch.save writes the file's name into it
    plans = [plan_of(audio_dir, **{"encoder.weights": str(tmp_path / name), "train.steps": 1})
             for name in ("a.pt", "b.pt")]
    assert weights_digest(tmp_path / "a.pt") == weights_digest(tmp_path / "b.pt")
    assert plans[0].digest == plans[1].digest != plan_of(audio_dir, **{"train.steps": 1}).digest
    train(plans[0], Store.open(plans[0].store_dir))
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).unlink()
    load_model(plans[0].directory / "fold_0" / "model.pt")
    with pytest.raises((InputError, SettingError), match=r"a\.pt"):
        plan_of(audio_dir, **{"encoder.weights": str(tmp_path / "a.pt")})


@pytest.mark.parametrize(("changes", "said"), [
    ({"finetune.regime": "freeze"}, "finetune.regime"),
    ({"finetune.remove": 2}, "finetune.remove"),
    ({"finetune.regime": "remove_heads", "finetune.remove": 2, "finetune.heads": [(0, 1)]}, "finetune.heads"),
    ({"frontend.mean_norm": True}, "mean_norm"),
])
def test_settings_that_do_not_go_together_stop(workspace, audio_dir, changes, said):
    def planned_and_trained():
        plan = plan_of(audio_dir, **changes)
        train(plan, Store.open(plan.store_dir))

    with pytest.raises(SettingError, match=said):
        planned_and_trained()
