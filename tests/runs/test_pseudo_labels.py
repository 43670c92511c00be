"""A second round on a blend's predictions: fold k learns from models that never saw fold k, and from nothing else."""

from contextlib import nullcontext

import numpy as np
import pytest

from src import experiments
from src.base.errors import SettingError
from src.base.files import write_json
from src.competition.open import open_competition
from src.ensemble import blend
from src.ledger.file import read as read_ledger
from src.ledger.record import write_row
from src.preprocess import preprocess
from src.runs.folder import Run
from src.runs.logits import read_logits
from src.runs.plan import make_plan
from src.runs.pseudo_labels import check_pseudo_labels, read_pseudo_labels, save_pseudo_labels
from src.settings.config import override, part
from src.store.store import Store
from src.training.run import run

TINY = {"encoder": part("transformer", d_model=16, num_heads=2, feed_forward_dim=32), "train.steps": 30,
        "train.batch_size": 8, "train.crop_frames": 20, "train.threads": 1, "train.device": "cpu", "folds": 2}


def plan_of(directory, **changes):
    competition = open_competition(directory)
    experiment = override(experiments.get("course"), TINY | changes)
    return make_plan(competition.name, preprocess(competition, experiment.features), experiment)


def first_round(directory, **changes):
    plan = plan_of(directory, **changes)
    store = Store.open(plan.store_dir)
    run(plan, store)
    return plan, store, blend([plan.run], store.labels)


def test_each_fold_is_given_what_its_own_models_predict(course_dir, workspace, monkeypatch):
    plan, store, made = first_round(course_dir)
    seen = []
    take = Store.crops

    def crops(self, rows, starts, num_frames, *how):
        seen.append((np.asarray(rows), self.labels[rows]))
        return take(self, rows, starts, num_frames, *how)

    monkeypatch.setattr(Store, "crops", crops)
    second = plan_of(course_dir, **{"train.pseudo_labels": plan.run_id, "train.pseudo_share": 0.75})
    assert second.experiment.train.pseudo_labels == made.run_id, "named by the blend, whatever asked"
    run(second, store)
    steps = TINY["train.steps"]
    for fold, (train_rows, valid_rows) in enumerate(store.folds(2)):
        rows, labels = (np.concatenate(column) for column in zip(*seen[fold * steps : (fold + 1) * steps]))
        logits = read_logits(plan.directory / f"fold_{fold}" / "test.npz")[1]
        sure = np.sort(np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).max(1))
        guessed = dict(zip(store.test_rows.tolist(), logits.argmax(1).tolist()))
        pseudo = {int(row): int(label) for row, label in zip(rows, labels) if row in guessed}
        assert len(pseudo) == 3, f"three quarters of the four test utterances: {sure}"
        assert all(guessed[row] == label for row, label in pseudo.items())
        assert set(rows.tolist()) == set(train_rows.tolist()) | set(pseudo)
        assert not set(rows.tolist()) & set(valid_rows.tolist())
    assert (store.labels[store.test_rows] == -1).all(), "the store itself has learnt no test label"


def test_the_surest_come_first(tmp_path):
    first = np.log([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    second = np.log([[0.1, 0.9], [0.6, 0.4], [0.5, 0.5]])
    save_pseudo_labels(tmp_path / "pseudo_labels.npz", np.array([7, 8, 9]), [first], second)
    rows, labels = read_pseudo_labels(tmp_path / "pseudo_labels.npz", 0, 0.67)
    assert (rows.tolist(), labels.tolist()) == ([8, 9], [0, 1])
    rows, labels = read_pseudo_labels(tmp_path / "pseudo_labels.npz", None, 0.34)
    assert (rows.tolist(), labels.tolist()) == ([7], [1])


@pytest.mark.parametrize(("first", "second", "works"), [(5, 5, True), (5, 1, True), (1, 1, True), (1, "all", True),
                                                        ("all", "all", True), (1, 5, False), (4, 1, False),
                                                        (5, 4, False), ("all", 2, False)])
def test_folds_that_were_split_otherwise_have_been_seen(tmp_path, first, second, works):
    made = Run(tmp_path / "toy" / "ensemble-00000000")
    write_json(made.result_path, {"table": "abc", "folds": first})
    with nullcontext() if works else pytest.raises(SettingError, match=rf"toy/ensemble-0+: .*theirs: folds={first}"):
        check_pseudo_labels(made, "abc", second)


def test_labels_that_mean_other_utterances_or_speakers_now_are_refused(frames_dir, workspace):
    first, _, made = first_round(frames_dir)
    table = frames_dir / "frames.csv"
    table.write_text(table.read_text().replace("train_0,train,anna", "train_0,train,bert"))
    plan = plan_of(frames_dir, **{"train.pseudo_labels": first.run_id})
    with pytest.raises(SettingError, match=rf"{made.run_id}: its utterances, speakers .* not today's"):
        run(plan, Store.open(plan.store_dir))
    assert not list(plan.directory.glob("fold_*")), "told before anything is trained"


def test_other_predictions_are_another_run_and_missing_ones_an_error(course_dir, workspace):
    plan, store, made = first_round(course_dir)
    before = plan_of(course_dir, **{"train.pseudo_labels": plan.run_id}).digest
    scores = np.zeros((2, len(store.test_rows), 3))
    save_pseudo_labels(made.pseudo_labels_path, store.test_rows, list(scores), scores[0])
    assert plan_of(course_dir, **{"train.pseudo_labels": plan.run_id}).digest != before
    made.pseudo_labels_path.unlink()
    with pytest.raises(SettingError, match=r"run `bash run\.sh ensemble"):
        plan_of(course_dir, **{"train.pseudo_labels": plan.run_id})
    seen_all, _, _ = first_round(course_dir, folds="all")
    known = plan_of(course_dir, **{"train.pseudo_labels": seen_all.run_id})
    with pytest.raises(SettingError, match="folds=all here"):
        run(known, store)


def test_the_row_of_a_second_round_says_what_else_it_changed(course_dir, workspace):
    first, *_ = first_round(course_dir)
    first_round(course_dir, seed=1)
    second = plan_of(course_dir, **{"train.pseudo_labels": first.run_id, "train.pseudo_share": 0.9, "name": "single"})
    parent = override(experiments.get("course"), TINY | {"train.pseudo_labels": "toy_course/course-"})  # fits two runs
    write_row(second, {"status": "failed"}, parent, "", "train")
    row = read_ledger()[-1]
    assert row["changed"] == "train.pseudo_share: 0.7 → 0.9"
