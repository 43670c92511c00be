"""Stage 2 on small real stores: out-of-fold hygiene, exact resume of a whole fold, other inputs, failures on record."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from src import experiments
from src.base.errors import RunError, SettingError
from src.base.files import read_json
from src.competition.open import open_competition
from src.ledger import file as ledger
from src.preprocess import preprocess
from src.runs.folder import Run
from src.runs.logits import read_logits
from src.runs.plan import make_plan
from src.settings.config import override, part
from src.store.store import Store
from src.train import train_and_record
from src.training import fold as fold_module
from src.training.fold import Fold
from src.training.loss import mix_up
from src.training.run import run
from src.training.workers import VARIABLE
from tests.support.competitions import write_table

TINY = {"encoder": part("transformer", d_model=16, num_heads=2, feed_forward_dim=32), "train.steps": 12,
        "train.batch_size": 8, "train.crop_frames": 20, "train.threads": 1, "train.device": "cpu", "folds": 3}


def plan_of(directory, **changes):
    competition = open_competition(directory)
    experiment = override(experiments.get("course"), TINY | changes)
    return make_plan(competition.name, preprocess(competition, experiment.features), experiment)


def train(directory, report=None, **changes):
    plan = plan_of(directory, **changes)
    return plan, Store.open(plan.store_dir), run(plan, Store.open(plan.store_dir), report)


def test_every_training_utterance_is_held_out_once_and_never_trained_on_there(course_dir, workspace, monkeypatch):
    seen = {}
    take = Store.crops

    def crops(store, rows, starts, num_frames, *how):
        seen.setdefault(len(folds_done()), set()).update(np.asarray(rows).tolist())
        return take(store, rows, starts, num_frames, *how)

    def folds_done():
        return list(workspace.rglob("fold_*/result.json"))

    monkeypatch.setattr(Store, "crops", crops)
    plan, store, result = train(course_dir)
    held_out = [read_logits(plan.directory / f"fold_{k}" / "valid.npz") for k in range(3)]
    assert sorted(np.concatenate([rows for rows, _ in held_out]).tolist()) == store.train_rows.tolist()
    for k, (rows, logits) in enumerate(held_out):
        assert not seen[k] & set(rows.tolist()), "a held-out utterance was trained on"
        assert not seen[k] & set(store.test_rows.tolist())
        assert logits.shape == (len(rows), len(store.speakers))
    hits = sum((logits.argmax(1) == store.labels[rows]).sum() for rows, logits in held_out)
    assert result["valid"] == hits / len(store.train_rows)


@pytest.mark.parametrize(("short", "repeats"), [("device", False), ("pad", False), ("repeat", True)])
def test_short_utterances_are_padded_on_a_cpu_unless_they_are_to_begin_again(course_dir, workspace, monkeypatch, short,
                                                                             repeats):
    batches, take = [], Store.crops

    def crops(store, *asked):
        batches.append(take(store, *asked))
        return batches[-1]

    monkeypatch.setattr(Store, "crops", crops)
    train(course_dir, **{"train.short": short, "train.crop_frames": 70, "train.steps": 3, "folds": 1})
    assert len(batches) == 3
    assert all((batch.lengths is None) == repeats for batch in batches)
    assert all(bool(batch.inputs[:, -1].any()) == repeats for batch in batches)


def test_what_the_test_labels_say_changes_nothing(course_dir, workspace):
    last = {"train.select": "last", "folds": 1}  # the best of so few steps may be the first, of rate 0
    plan, _, _ = train(course_dir, **last)
    before = read_logits(plan.directory / "fold_0" / "test.npz")[1]
    shutil.rmtree(workspace / "data")
    competition = open_competition(course_dir)
    answers = [(test_id, competition.speakers[i % 3], "Public") for i, test_id in enumerate(competition.test_ids)]
    write_table(course_dir / "solution.csv", [("Id", "Category", "Usage"), *answers])
    again, _, _ = train(course_dir, **last)
    assert again.digest == plan.digest, "the solution is no input"
    np.testing.assert_array_equal(read_logits(plan.directory / "fold_0" / "test.npz")[1], before)


@pytest.mark.parametrize("changes", [
    {"augment": [part("session"), part("spec_augment")], "train.mixup": 0.4, "optim.ema_decay": 0.9},
    {"head": part("aam_softmax", ramp=0.5), "embedding.dropout": 0.3, "train.balanced": True, "infer.crops": 2},
    {"encoder": part("conformer", d_model=16, num_layers=1, feed_forward_dim=16, kernel_size=3, dropout=0.5),
     "train.precision": "bfloat16", "folds": "all"},
])
def test_a_fold_stopped_and_resumed_equals_one_never_stopped(course_dir, workspace, monkeypatch, changes):
    changes = {"folds": 1, "train.select": "last", **changes}
    plan, _, _ = train(course_dir, **changes)
    whole = [read_logits(plan.directory / "fold_0" / name)[1] for name in ("valid.npz", "test.npz")]
    for path in plan.directory.rglob("*.*"):
        path.unlink()

    class Stopped(Exception):
        pass

    from src.training.loop import Loop
    step = Loop._step

    def stop_at_seven(loop, number, *rest):
        if number == 7:
            raise Stopped
        return step(loop, number, *rest)

    monkeypatch.setattr(Loop, "_step", stop_at_seven)
    monkeypatch.setattr("src.training.loop.SAVE_EVERY_S", -1.0)  # save after every step
    with pytest.raises(Stopped):
        train(course_dir, **changes)
    assert (plan.directory / "fold_0" / "last.pt").exists()
    monkeypatch.setattr(Loop, "_step", step)
    train(course_dir, **changes)
    for name, expected in zip(("valid.npz", "test.npz"), whole):
        np.testing.assert_array_equal(read_logits(plan.directory / "fold_0" / name)[1], expected)


def test_another_seed_is_another_model(course_dir, workspace):
    logits = []
    for seed in (0, 1):
        plan, _, _ = train(course_dir, folds=1, seed=seed)
        logits.append(read_logits(plan.directory / "fold_0" / "test.npz")[1])
    assert np.abs(logits[0] - logits[1]).max() > 0.1


def test_folds_side_by_side_leave_what_one_after_the_other_does(course_dir, workspace, monkeypatch):
    plan, _, result = train(course_dir, folds=2)
    kept = plan.directory.rename(plan.directory.with_name("one_after_the_other"))
    store = replace(Store.open(plan.store_dir), digest="another")  # what the caller made of it, not what lies there
    monkeypatch.setenv(VARIABLE, "2")
    beside = run(plan, store)
    assert beside == result | {key: beside[key] for key in ("finished", "seconds")} | {"store": "another"}
    for fold in range(2):
        old, new = (directory / f"fold_{fold}" for directory in (kept, plan.directory))
        for name in ("valid.npz", "test.npz", "log.csv", "model.pt"):
            assert (old / name).read_bytes() == (new / name).read_bytes(), f"fold {fold}: {name}"


@pytest.mark.parametrize("changes", [{"features.store": "waveform", "augment": "speed"}, {"augment": "mel_speed"}])
def test_speed_copies_as_classes_leave_logits_of_the_speakers(audio_dir, workspace, changes):
    changes = {**changes, "train.speed_classes": True, "folds": 1}
    plan, store, _ = train(audio_dir, **changes)
    for name in ("valid.npz", "test.npz"):
        logits = read_logits(plan.directory / "fold_0" / name)[1]
        assert logits.shape[1] == len(store.speakers)
        assert np.isfinite(logits).all()
    with pytest.raises(SettingError, match="speed augmentation"):
        plan_of(audio_dir, **{"features.store": "waveform", "train.speed_classes": True})


def test_an_augmentation_refuses_a_store_that_it_does_not_fit(frames_dir, audio_dir, workspace):
    for directory, augmentation in ((frames_dir, "session"), (audio_dir, "speed")):
        with pytest.raises(SettingError, match="fits"):
            train(directory, augment=augmentation)


def test_one_frame_one_utterance_speakers_and_short_crops_are_no_trouble(tmp_path, workspace):
    directory = tmp_path / "odd"
    directory.mkdir()
    lengths = [1, 30, 2, 7, 1, 40, 3, 3]
    speakers = ["a", "a", "a", "a", "b", "c", "c", "c"]  # b has one utterance, of one frame
    lines = ["utt_id,split,speaker,num_frames"]
    lines += [f"u{i},train,{s},{n}" for i, (s, n) in enumerate(zip(speakers, lengths))] + ["t0,test,,1"]
    (directory / "frames.csv").write_text("\n".join(lines) + "\n")
    np.save(directory / "frames.npy", np.random.default_rng(0).standard_normal((sum(lengths) + 1, 4)).astype("float32"))
    for encoder in (TINY["encoder"], part("ecapa_tdnn", channels=16, aggregate_dim=24, se_dim=8)):
        plan, _, result = train(directory, encoder=encoder, folds=2)
        assert np.isfinite(read_logits(plan.directory / "fold_0" / "test.npz")[1]).all(), encoder.name
        assert result["num_classes"] == 3


def test_a_loss_that_explodes_is_an_error_and_a_row(frames_dir, workspace):
    plan = plan_of(frames_dir, **{"optim.lr": 1e30, "optim.warmup_steps": 0})
    with pytest.raises(RunError, match="not finite"):
        train_and_record(plan)
    row = ledger.read()[-1]
    assert (row["status"], row["run_id"]) == ("failed", plan.run_id)
    assert "not finite" in row["note"]


def test_a_run_is_found_by_any_unique_prefix(frames_dir, workspace):
    plan, _, _ = train(frames_dir, folds=1)
    other, _, _ = train(frames_dir, folds=1, seed=1)
    for name in (plan.run_id, plan.run_id[:-3], plan.run_id.split("/")[1], f"{plan.run_id}/"):
        assert Run.find(name).directory == plan.directory
    with pytest.raises(SettingError, match="not unique"):
        Run.find("toy_frames/course")
    with pytest.raises(SettingError, match="no run"):
        Run.find("toy_frames/none")
    assert other.directory != plan.directory


def test_a_row_says_what_changed_from_its_parent(frames_dir, workspace):
    parent = override(experiments.get("course"), TINY | {"folds": 1})
    plan = plan_of(frames_dir, folds=1, **{"pooling": "max"})
    train_and_record(plan, parent=parent)
    train_and_record(plan, parent=parent)
    rows = [row for row in ledger.read() if row["run_id"] == plan.run_id]
    assert len(rows) == 1, "a finished run is recorded once"
    assert rows[0]["changed"] == "pooling: mean → max"


@pytest.mark.parametrize(("select", "kept"), [("best", 10), ("last", 30)])
def test_the_step_that_is_told_is_the_one_whose_weights_are_kept(course_dir, workspace, select, kept):
    still = {"optim.lr": 0.0, "train.steps": 30, "train.valid_every": 10, "train.select": select, "folds": 1}
    plan, _, _ = train(course_dir, **still)  # nothing is learnt, so that the first validation is as good as any
    assert read_json(plan.directory / "fold_0" / "result.json")["best_step"] == kept


def test_mixed_items_and_their_losses_have_the_same_shares(course_dir, workspace, monkeypatch):
    plan = plan_of(course_dir, folds=1, **{"train.mixup": 0.4, "train.label_smoothing": 0.1})
    store = Store.open(plan.store_dir)
    fold = Fold(plan, store, 0)
    fold.model.eval()
    batch = fold.crops_of(0)
    logits = fold.model(batch.inputs, batch.lengths).detach()
    other = torch.arange(len(logits)).roll(1)
    share = torch.linspace(0.5, 1.0, len(logits))
    monkeypatch.setattr(fold_module, "mix_up", lambda frames, alpha, generator: (frames, other, share))
    own, others = (F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
                   for labels in (batch.labels, batch.labels[other]))
    torch.testing.assert_close(fold.losses_of(batch)["loss"].detach(), (share * own + (1 - share) * others).mean())
    frames = torch.randn(64, 5, 3)
    mixed, other, share = mix_up(frames, 0.4, torch.Generator().manual_seed(0))
    weight = share[:, None, None]
    torch.testing.assert_close(mixed, weight * frames + (1 - weight) * frames[other])
    assert sorted(other.tolist()) == list(range(64))
    assert 0.5 <= share.min() < 0.7 < 0.95 < share.max() <= 1.0
