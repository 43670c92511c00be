"""The stream: each stage called in its order, with what it skips said aloud.

This is the only file that knows all stages; the stages themselves meet through files.
"""

import argparse
import math
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from src import distributed, experiments, ledger
from src.adapt import check_limits
from src.competition import Competition, find_folder, open_competition
from src.config import Experiment, override, parse_assignments
from src.errors import RunError, SettingError
from src.files import lock, read_json
from src.ledger_row import make_blend_row
from src.parts import complete_experiment
from src.plan import ClassCounts, Plan, can_hold_out, ensemble_dir, find_run, make_plan, store_of
from src.preprocess import find_store
from src.record import train_and_record
from src.workspace import use_smoke_workspace, workspace_dir


def run(options: argparse.Namespace) -> None:
    """Run every stage that is not done yet, from raw competition to submission.csv."""
    started = time.monotonic()
    _out(options)  # told before anything is trained
    ledger.read()  # and so is a ledger that could not take the row
    competition, experiment = _setting(options)
    with lock(workspace_dir() / "data" / f".{competition.name}.lock",
              f"another run on {competition.name} is under way in this checkout; waiting for it"):
        store_dir = _preprocess(competition, experiment)
        plan, result = _train(competition, store_dir, experiment, options)
        blend_dir = _ensemble([plan.directory])
        blended = read_json(blend_dir / "result.json")
        out = _submit(competition, store_dir, blend_dir, plan, options)
    print()
    if out:
        print(f"submission: {out}")
    if blended["valid"] is not None:
        print(f"validation accuracy: {blended['valid']:.4f} on {blended['num_valid']} whole utterances "
              f"({'out-of-fold' if plan.experiment.folds != 1 else 'held out'}, seed {plan.experiment.seed})")
    if out:
        _local_score(competition, out, plan.run_id)
    print(f"time: {time.monotonic() - started:.1f} s (the folds' training added up: {result['seconds']:.1f} s)")


def preprocess(options: argparse.Namespace) -> None:
    """Stage 1 alone."""
    competition, experiment = _setting(options)
    _preprocess(competition, experiment)


def train(options: argparse.Namespace) -> None:
    """Stage 2 alone, on what stage 1 left."""
    competition, experiment = _setting(options)
    store_dir = _require_store(competition, experiment)
    _train(competition, store_dir, experiment, options)


def ensemble(options: argparse.Namespace) -> None:
    """Stage 3 alone: blend finished runs by name."""
    run_dirs = [find_run(name) for name in options.runs]
    if len(set(run_dirs)) < len(run_dirs):
        raise SettingError(f"ensemble: a run is named twice: {', '.join(sorted(path.name for path in run_dirs))}")
    competitions = {path.parent.name for path in run_dirs}
    if len(competitions) > 1:
        raise SettingError(f"runs of several competitions cannot be blended: {', '.join(sorted(competitions))}")
    blend_dir = _ensemble(run_dirs, options.classes)
    result = read_json(blend_dir / "result.json")
    is_dated = "finished" in result  # or an older version made it and wrote its row
    if len(run_dirs) > 1 and is_dated and not ledger.contains(result["digest"], result["finished"]):
        words = ["bash", "run.sh", "ensemble", *options.runs]
        words += [] if options.classes == "auto" else ["--classes", options.classes]
        ledger.append(make_blend_row(result, competition=blend_dir.parent.name, command=shlex.join(words)), once=True)
    print(f"blend: {blend_dir.parent.name}/{blend_dir.name}")


def submit(options: argparse.Namespace) -> None:
    """Stage 4 alone: a submission of a finished run or blend."""
    directory = find_run(options.run)
    competition = open_competition(options.data or find_folder(directory.parent.name))
    if not competition.has_test:
        raise SettingError(f"submit: {competition.name} has no test part, so there is nothing to submit")
    name = directory.name
    if not name.startswith("ensemble-"):
        name = name.rpartition("-")[0]  # the experiment's, as `run` calls it
        directory = _ensemble([directory])
    store_dir = store_of(directory)
    out = _out(options)
    _write(competition, store_dir, directory, out, options.name or name)
    run_ids = [*read_json(directory / "result.json")["members"]]
    run_id = run_ids[0] if len(run_ids) == 1 else f"{competition.name}/{directory.name}"
    _local_score(competition, out, run_id)
    if options.kaggle:
        from src import kaggle

        print(kaggle.submit(options.kaggle, out, run_id))  # by which `ledger sync` finds its row


def _out(options: argparse.Namespace) -> Path:
    """Return where the submission goes; raises SettingError for a folder."""
    out = Path(options.out) if options.out else workspace_dir() / "submission.csv"
    if out.is_dir():
        raise SettingError(f"--out {out}: a folder; name a file, such as {out / 'submission.csv'}")
    return out


def _setting(options: argparse.Namespace) -> tuple[Competition, Experiment]:
    """Return competition and experiment that the command line names; every mistyped setting stops here."""
    if options.smoke:
        use_smoke_workspace()
    experiment = override(experiments.get(options.experiment), parse_assignments(options.set))
    complete_experiment(experiment)
    check_limits(experiment)
    if options.smoke:
        experiment = experiments.smoke(experiment)
    competition = open_competition(options.data)
    print(*competition.notices, sep="\n", end="\n" if competition.notices else "", flush=True)
    return competition, experiment


def _preprocess(competition: Competition, experiment: Experiment) -> Path:
    store_dir = find_store(competition, experiment.features)
    if store_dir:
        print(f"[1/4] preprocess: {store_dir.name} is there, skipped")
        return store_dir
    from src.preprocess import preprocess as build_store

    print(f"[1/4] preprocess: {competition.name}, {competition.kind} input")
    return build_store(competition, experiment.features)


def _require_store(competition: Competition, experiment: Experiment) -> Path:
    store_dir = find_store(competition, experiment.features)
    if store_dir is None:
        raise RunError(f"{competition.name}: no store for these features; run the preprocess stage first")
    return store_dir


def _train(competition: Competition, store_dir: Path, experiment: Experiment,
           options: argparse.Namespace) -> tuple[Plan, dict[str, Any]]:
    if (options.smoke or experiment.folds == "auto") and not can_hold_out(store_dir):
        print("folds=all: every speaker has one file or one group, so that nothing can be held out to validate on")
        if options.smoke:  # which asks for one fold; adapt knows what "auto" is
            experiment = override(experiment, {"folds": "all"})
    plan = make_plan(competition.name, store_dir, experiment)
    print(f"[2/4] train: {plan.run_id}" + (" is there, skipped" if plan.is_done() else ""))
    return plan, train_and_record(plan, parent=_parent(experiment, options), command=command(options))


def _parent(experiment: Experiment, options: argparse.Namespace) -> Experiment | None:
    """Return what the experiment is a change of: the named one where --set changed it, else that one's parent."""
    named = experiments.get(options.experiment)
    if replace(experiment, seed=named.seed) != named and not options.smoke:
        return named
    return experiments.get(named.parent) if named.parent in experiments.names() else None


def command(options: argparse.Namespace) -> str:
    """Return the command line that reruns what `options` asked for."""
    words = [*distributed.command("run"), "--data", str(options.data), "--experiment", options.experiment]
    words += [word for assignment in options.set for word in ("--set", assignment)]
    return shlex.join(words + (["--smoke"] if options.smoke else []))


def _ensemble(run_dirs: list[Path], classes: ClassCounts = "auto") -> Path:
    directory = ensemble_dir(run_dirs, classes)
    if (directory / "result.json").exists():
        print(f"[3/4] ensemble: {directory.name} is there, skipped")
        return directory
    from src.ensemble import blend
    from src.store import Store

    print("[3/4] ensemble:")
    return blend(run_dirs, Store.open(store_of(run_dirs[0])).labels, classes)


def _submit(competition: Competition, store_dir: Path, blend_dir: Path, plan: Plan,
            options: argparse.Namespace) -> Path | None:
    if not competition.has_test:
        print(f"[4/4] submit: {competition.name} has no test part; the stream ends with the out-of-fold result")
        return None
    out = _out(options)
    print("[4/4] submit:")
    _write(competition, store_dir, blend_dir, out, plan.experiment.name)
    return out


def _write(competition: Competition, store_dir: Path, blend_dir: Path, out: Path, name: str) -> None:
    from src.store import Store
    from src.submit import write_submission

    kept = write_submission(competition, Store.open(store_dir), blend_dir, out, name)
    print(f"  {out} and {kept}")


def _local_score(competition: Competition, out: Path, run_id: str) -> None:
    from src.submit import local_score

    score = local_score(competition, out)
    if score:
        halves = f"; public half {score.public:.4f}, private half {score.private:.4f}"
        print(f"local score: {score.total:.4f} ({score.num_right} of {score.num_total}"
              f"{'' if math.isnan(score.public + score.private) else halves}; from the solution file beside the data)")
        known = {half: value for half, value in (("public", score.public), ("private", score.private))
                 if math.isfinite(value)}
        try:
            ledger.score(run_id, **known, kind="local")
        except SettingError as error:
            print(f"  not in the ledger: {error}")
