"""What lies in a workspace is said as it is, and pruning removes exactly what nothing needs."""

import argparse
import dataclasses
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from src.apps.status import command as status
from src.apps.status import leftovers
from src.base.errors import RunError, SettingError
from src.base.files import digest, lock, write_json
from src.base.text import shown_bytes, shown_path
from src.experiments import BASE
from src.runs.folder import Run
from src.runs.plan import make_plan
from src.settings.auto import DataSummary
from src.settings.config import to_json

OLD = 2 * leftovers.SETTLED_S


def store(workspace, name, content=0, settings=None, age_s=0.0):
    """Write the tables of a store of competition "toy", whose content is a number, and return its folder."""
    summary = dataclasses.asdict(DataSummary("cepstra", 18, 6, 12))
    named = digest([name, content, settings])
    folder = workspace / "data" / "cache" / "toy" / f"cepstra-{named[:8]}"
    write_json(folder / "meta.json", {"digest": named, "kind": "cepstra", "num_utterances": 23, "summary": summary,
                                      "settings": settings or {"kind": "cepstra", "dim": 4}})
    (folder / "frames.bin").write_bytes(bytes(100))
    os.utime(folder / "meta.json", (time.time() - age_s,) * 2)
    return folder


def run(store_dir, seed=0, folds_done=0, is_done=False, leave=()):
    """Write a run of two folds on a store as train leaves it after `folds_done`, and return its folder."""
    experiment = dataclasses.replace(BASE, seed=seed, folds=2)
    plan = make_plan("toy", store_dir, experiment)
    wanted = json.loads((store_dir / "meta.json").read_text())["digest"]
    plan.run.begin(plan.experiment, plan.digest, wanted)
    plan.run.lock_path.touch()
    for fold in range(2):
        folder = plan.directory / f"fold_{fold}"
        folder.mkdir()
        if fold < folds_done:
            write_json(folder / "result.json", {"num_right": 3})
        if fold <= folds_done:
            (folder / "log.csv").write_text(f"step,lr\n10,0.1\n{20 + fold},0.1\n")
    if is_done:
        write_json(plan.directory / "result.json", {"store": wanted, "valid": 0.75})
    for name in leave:
        (plan.directory / name).write_bytes(bytes(10))
    return plan.directory


def call(**options):
    status.main(argparse.Namespace(**{"json": False, "prune": False, "yes": False, **options}))


def test_an_empty_workspace_has_nothing_and_nothing_to_prune(workspace, capsys):
    call(prune=True)
    said = capsys.readouterr().out
    assert "stores: none" in said
    assert "nothing to prune" in said
    assert list(workspace.iterdir()) == []


def test_states_folds_and_steps_are_told_from_files_and_locks(workspace, capsys):
    kept = store(workspace, "a")
    done = run(kept, 0, 2, is_done=True)
    stopped = run(kept, 1, 1, leave=["fold_1/last.pt"])
    going = run(kept, 2, 0, leave=["fold_0/last.pt"])
    (kept.parent / "partial-cepstra-12345678").mkdir()
    write_json(done.parent / "ensemble-1234abcd" / "result.json",
               {"store": "x", "members": {"toy/b": 0.5, "toy/a": 0.5}, "valid": None})
    with lock(going / ".lock"):
        call(json=True)
        found = json.loads(capsys.readouterr().out)
        call()
        shown = capsys.readouterr().out
    runs = {item["name"]: item for item in found["runs"]}
    assert [runs[f"toy/{path.name}"]["state"] for path in (done, stopped, going)] == [
        "finished", "interrupted", "running"]
    assert [(item["num_folds_done"], item["num_folds"], item["step"]) for item in
            (runs[f"toy/{path.name}"] for path in (done, stopped, going))] == [(2, 2, 0), (1, 2, 21), (0, 2, 20)]
    assert runs[f"toy/{done.name}"] | {"age_s": 0} == {
        "name": f"toy/{done.name}", "experiment": "course", "digest": done.name[-8:], "state": "finished",
        "num_folds_done": 2, "num_folds": 2, "step": 0, "steps": 8000, "valid": 0.75, "age_s": 0,
        "num_bytes": sum(path.stat().st_size for path in done.rglob("*") if path.is_file())}
    assert {item["name"]: (item["state"], item["num_runs"]) for item in found["stores"]} == {
        f"toy/{kept.name}": ("whole", 3), "toy/partial-cepstra-12345678": ("partial", 0)}
    assert [item["members"] for item in found["blends"]] == [["toy/a", "toy/b"]]
    assert f"toy/{going.name}" in shown
    assert "1 of 2 folds, step 21 of 8,000" in shown


def test_a_run_knows_its_store_from_the_moment_that_it_begins(workspace):
    first, second = store(workspace, "a"), store(workspace, "a", content=1)
    assert Run(run(second, 1)).store_dir() == second
    assert Run(run(first, 2)).store_dir() == first
    lost = Run(run(store(workspace, "a", content=2), 3))
    (store(workspace, "a", content=2) / "meta.json").unlink()
    with pytest.raises(RunError, match="is gone; the preprocess stage"):
        lost.store_dir()
    of_old_code = Run(run(first, 4, 2, is_done=True))
    (of_old_code.directory / "run.json").unlink()
    assert of_old_code.store_dir() == first, "its result says so"


def test_a_run_is_counted_for_the_store_of_its_own_competition(workspace, capsys):
    kept = store(workspace, "a")
    run(kept, 0, 2, is_done=True)
    twin = kept.parents[1] / "other" / kept.name
    shutil.copytree(kept, twin)
    call(json=True)
    assert {item["name"]: item["num_runs"] for item in json.loads(capsys.readouterr().out)["stores"]} == {
        f"toy/{kept.name}": 1, f"other/{kept.name}": 0}


def test_no_store_is_spent_while_a_run_does_not_tell_which_one_it_needs(workspace):
    old, new = store(workspace, "a", 0, age_s=100), store(workspace, "a", 1)
    directory = run(new)
    assert [item.path for item in leftovers.leftovers()] == [old]
    (directory / "run.json").unlink()  # as an older version leaves a run
    assert leftovers.leftovers() == []


def test_prune_removes_what_is_spent_and_not_one_file_more(workspace, capsys):
    used, spent = store(workspace, "a", 0, age_s=300), store(workspace, "a", 1, age_s=200)
    half_used, newest = store(workspace, "a", 2, age_s=100), store(workspace, "a", 3)
    other = store(workspace, "b", settings={"kind": "cepstra", "dim": 5}, age_s=400)
    odd = newest.parent / "conditions-12345678"  # not from preprocess: another stage's to remove
    write_json(odd / "meta.json", {"kind": "cepstra", "settings": {"kind": "cepstra", "dim": 4}, "digest": "ab"})
    partial = newest.parent / "partial-cepstra-12345678"
    partial.mkdir()
    (partial / "frames.bin").write_bytes(bytes(1000))
    run(used, 0, 2, is_done=True, leave=["fold_0/last.pt", "fold_1/best.pt", "fold_1/model.pt"])
    stopped = run(half_used, 1, 1, leave=["fold_0/best.pt", "fold_1/last.pt", "fold_1/best.pt"])
    temporary = [stopped / ".result.json.999999999.tmp", workspace / ".ablations.csv.999999999.tmp"]
    fresh, alive, foreign = (stopped / name for name in (
        ".log.csv.999999999.tmp", f".log.csv.{os.getpid()}.tmp", "mine.tmp"))
    for path in (*temporary, fresh, alive, foreign):
        path.write_text("x")
        if path != fresh:
            os.utime(path, (time.time() - OLD,) * 2)
    done = used.parent.parent.parent / "runs" / "toy"
    gone = {spent, spent / "meta.json", spent / "frames.bin", partial, partial / "frames.bin", *temporary,
            *done.glob("*/fold_0/last.pt"), stopped / "fold_0" / "best.pt",
            *(path for path in done.glob("*/fold_1/best.pt") if path.parent.parent != stopped)}
    assert len(gone) == 10
    before = set(workspace.rglob("*"))
    call()
    assert set(workspace.rglob("*")) == before  # looking removes nothing
    assert "7 of 7" not in capsys.readouterr().out
    call(prune=True, yes=True)
    made = {newest.parent / "preprocess.lock"}  # held while its stores were removed
    assert (before - set(workspace.rglob("*")), set(workspace.rglob("*")) - before) == (gone, made)
    said = capsys.readouterr().out
    assert "removed 7 of 7" in said
    assert f"see {newest.name}" in said
    assert other.exists()
    call(prune=True)
    assert "nothing to prune" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["data/.toy.lock", "data/runs/toy/{run}/.lock", "data/cache/toy/preprocess.lock",
                                   "data/studies/toy/course-12345678/workers/1-2.lock"])
def test_no_store_is_spent_while_anything_works_on_the_competition(workspace, place):
    old, new = store(workspace, "a", 0, age_s=100), store(workspace, "a", 1)
    directory = run(new)
    assert [item.path for item in leftovers.leftovers()] == [old]
    with lock(workspace / place.format(run=directory.name)):
        assert leftovers.leftovers() == []


def test_no_store_is_spent_while_a_trial_under_way_may_need_it(workspace):
    old, _ = store(workspace, "a", 0, age_s=100), store(workspace, "a", 1)
    trial = workspace / "data" / "studies" / "toy" / "course-12345678" / "trials" / "0123456789abcdef"
    write_json(trial / "experiment.json", to_json(BASE))
    assert leftovers.leftovers() == []
    write_json(trial / "result.json", {"store": "another"})
    assert [item.path for item in leftovers.leftovers()] == [old]


def test_nothing_of_a_running_run_or_of_a_store_being_made_is_spent(workspace):
    directory = run(store(workspace, "a"), 0, 1, leave=["fold_0/last.pt"])
    folder = workspace / "data" / "cache" / "toy"
    partial, degraded = folder / "partial-cepstra-1", folder / "conditions-1.partial"
    partial.mkdir()
    degraded.mkdir()
    assert {item.path for item in leftovers.leftovers()} == {directory / "fold_0" / "last.pt", partial, degraded}
    with lock(directory / ".lock"), lock(folder / "preprocess.lock"):
        assert {item.path for item in leftovers.leftovers()} == {degraded}
        with lock(folder / "conditions.lock"):
            assert leftovers.leftovers() == []
            assert {item.state for item in status.survey()["stores"]} == {"whole", "being made"}


def test_a_pretraining_has_steps_and_no_folds_and_leaves_a_checkpoint_of_its_own(workspace, capsys):
    directory = run(store(workspace, "a"), leave=["last.pt"])
    (directory / "fold_0" / "log.csv").rename(directory / "log.csv")
    write_json(directory / "pretrain.json", {})
    assert [(item.num_folds, item.step) for item in status.survey()["runs"]] == [(0, 20)]
    assert leftovers.leftovers() == []
    write_json(directory / "result.json", {"store": "x"})
    assert [item.path for item in leftovers.leftovers()] == [directory / "last.pt"]
    with lock(directory / ".lock"):
        assert leftovers.leftovers() == []
    call()
    assert "  8,000 steps  " in capsys.readouterr().out


def test_what_is_taken_up_again_after_the_listing_is_kept(workspace, capsys):
    directory = run(store(workspace, "a"), 0, 1, leave=["fold_0/last.pt"])
    (leftover,) = leftovers.leftovers()
    with lock(directory / ".lock"):
        assert not leftovers.remove(leftover)
    (directory / "fold_0" / "result.json").unlink()
    assert not leftovers.remove(leftover)
    assert leftover.path.exists()
    assert capsys.readouterr().out.count("in use again, kept") == 2
    write_json(directory / "fold_0" / "result.json", {})
    assert leftovers.remove(leftover)
    assert not leftover.path.exists()


def test_prune_asks_and_without_anybody_there_refuses(workspace, monkeypatch, capsys):
    directory = run(store(workspace, "a"), 0, 1, leave=["fold_0/last.pt"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(SettingError, match="add --yes"):
        call(prune=True)
    assert (directory / "fold_0" / "last.pt").exists()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, is_there in (("", True), ("n", True), ("y", False)):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        call(prune=True)
        assert (directory / "fold_0" / "last.pt").exists() == is_there
    with pytest.raises(SettingError, match="--prune"):
        call(yes=True)


def test_a_foreign_or_torn_file_stops_nothing(workspace):
    kept = store(workspace, "a")
    (kept.parent / "cepstra-torn0000").mkdir()
    (kept.parent / "cepstra-torn0000" / "meta.json").write_text("{")
    old = kept.parent.parent.parent / "runs" / "toy" / "older-12345678"
    write_json(old / "experiment.json", {"name": "older", "folds": "all", "train": {"steps": 7}, "gone": 1})
    found = status.survey()
    assert [item.state for item in found["stores"]] == ["whole", "torn"]
    assert [(item.state, item.num_folds, item.steps) for item in found["runs"]] == [("of an older version", 1, 7)]
    with pytest.raises(RunError, match="older-12345678: its store of an older version is gone"):
        Run(old).store_dir()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_studies_tell_their_trials_from_the_storage(workspace):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = workspace / "data" / "studies" / "toy"
    for name in ("course-12345678", "course-87654321", "other-00000000"):
        (folder / name / "workers").mkdir(parents=True)
    made = optuna.create_study(study_name="toy/course-12345678", storage=f"sqlite:///{folder / 'course.db'}",
                               direction="maximize")
    made.optimize(lambda optuna_trial: [0.5, 0.75, 0.25][optuna_trial.number], n_trials=3)
    with lock(folder / "course-87654321" / "workers" / "1-1.lock"):
        found = {item.name: (item.state, item.num_finished, item.best, bool(item.note))
                 for item in status.survey()["studies"]}
    assert found == {"toy/course-12345678": ("stopped", 3, 0.75, False),
                     "toy/course-87654321": ("running", None, None, True),
                     "toy/other-00000000": ("stopped", None, None, True)}


@pytest.mark.parametrize(("number", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (25e6, "25 MB"),
                                               (4.71e9, "4.7 GB")])
def test_sizes_are_decimal(number, shown):
    assert shown_bytes(int(number)) == shown


def test_a_path_outside_the_workspace_is_shown_whole(workspace):
    assert shown_path(workspace / "data" / "x") == str(Path("data") / "x")
    assert shown_path(Path("/elsewhere")) == "/elsewhere"
