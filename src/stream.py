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

from src import experiments
from src.base import distributed
from src.base.errors import RunError, SettingError
from src.base.files import lock
from src.base.workspace import runs_dir, use_smoke_workspace, workspace_dir
from src.competition.open import Competition, find_folder, open_competition
from src.ledger import file as ledger
from src.ledger.row import make_blend_row
from src.preprocess import preprocess as build_store
from src.runs.folder import ClassCounts, Run, blend_of
from src.runs.plan import Plan, can_hold_out, make_plan
from src.settings.arguments import resolve
from src.settings.config import Experiment, override
from src.store.find import find_store, is_made_of
from src.store.table import Table
from src.train import train_and_record


def run(options: argparse.Namespace) -> None:
    """Run every stage that is not done yet, from raw competition to submission.csv."""
    started = time.monotonic()
    _out(options)  # told before anything is trained
    ledger.read()  # and so is a ledger that could not take the row
    competition, experiment = _setting(options)
    with lock(workspace_dir() / "data" / f".{competition.name}.lock",
              f"another run on {competition.name} is under way in this checkout; waiting for it"):
        store_dir = build_store(competition, experiment.features)
        plan, result = _train(competition, store_dir, experiment, options)
        blend = _ensemble([plan.run])
        out = _submit(competition, store_dir, blend, plan, options)
    print()
    if out:
        print(f"submission: {out}")
    if blend.result["valid"] is not None:
        print(f"validation accuracy: {blend.result['valid']:.4f} on {blend.result['num_valid']} whole utterances "
              f"({'out-of-fold' if plan.experiment.folds != 1 else 'held out'}, seed {plan.experiment.seed})")
        if competition.has_test:
            _say_what_to_expect(blend, store_dir)
    if out:
        _local_score(competition, out, plan.run_id)
    print(f"time: {time.monotonic() - started:.1f} s (the folds' training added up: {result['seconds']:.1f} s)")


def _say_what_to_expect(blend: Run, store_dir: Path) -> None:
    """Print which validation to believe, and the score to expect on the test part."""
    from src.shift.judge import expect, verdict_on  # imports torch
    from src.store.store import Store

    store = Store.open(store_dir)
    verdict = verdict_on(store)
    print(f"validation: {verdict}")
    print(expect(blend, store, verdict))
    if verdict.is_shifted:
        runs = " ".join(blend.result["members"])
        print(f"`bash run.sh conditions {runs}` measures it on degraded copies")


def preprocess(options: argparse.Namespace) -> None:
    """Stage 1 alone."""
    competition, experiment = _setting(options)
    build_store(competition, experiment.features)


def train(options: argparse.Namespace) -> None:
    """Stage 2 alone, on what stage 1 left."""
    competition, experiment = _setting(options)
    store_dir = _require_store(competition, experiment)
    _train(competition, store_dir, experiment, options)


def ensemble(options: argparse.Namespace) -> None:
    """Stage 3 alone: blend finished runs by name."""
    runs = [Run.find(name) for name in options.runs]
    if len({run.directory for run in runs}) < len(runs):
        raise SettingError(f"ensemble: a run is named twice: {', '.join(sorted(run.directory.name for run in runs))}")
    competitions = {run.competition for run in runs}
    if len(competitions) > 1:
        raise SettingError(f"runs of several competitions cannot be blended: {', '.join(sorted(competitions))}")
    blend = _ensemble(runs, options.classes)
    result = blend.result
    is_dated = "finished" in result  # or an older version made it and wrote its row
    if len(runs) > 1 and is_dated and not ledger.contains(result["digest"], result["finished"]):
        words = ["bash", "run.sh", "ensemble", *options.runs]
        words += [] if options.classes == "auto" else ["--classes", options.classes]
        ledger.append(make_blend_row(result, competition=blend.competition, command=shlex.join(words)), once=True)
    print(f"blend: {blend.run_id}")


def submit(options: argparse.Namespace) -> None:
    """Stage 4 alone: a submission of a finished run or blend."""
    run = Run.find(options.run)
    competition = open_competition(options.data or find_folder(run.competition))
    if not competition.has_test:
        raise SettingError(f"submit: {competition.name} has no test part, so there is nothing to submit")
    blend = run if run.is_blend else _ensemble([run])
    _check_folder(competition, blend)
    name = run.directory.name
    if not run.is_blend:
        name = name.rpartition("-")[0]  # the experiment's, as `run` calls it
    out = _out(options)
    _write(competition, blend.store_dir(), blend, out, options.name or name, may_replace=bool(options.name))
    run_ids = [*blend.result["members"]]
    run_id = run_ids[0] if len(run_ids) == 1 else blend.run_id
    _local_score(competition, out, run_id)
    if options.kaggle:
        from src.ledger import kaggle

        print(kaggle.submit(options.kaggle, out, run_id))  # by which `ledger sync` finds its row


def _check_folder(competition: Competition, blend: Run) -> None:
    """Raise RunError where a run of the blend was trained on other files than lie in the competition's folder now."""
    for member in (Run(runs_dir() / run_id) for run_id in blend.result["members"]):
        if member.experiment_path.exists() and not is_made_of(member.store_digest, competition,
                                                              member.experiment.features):
            raise RunError(f"{competition.directory}: {member.run_id} was trained on other files than lie there now; "
                           "give its own folder with --data, or run the stream again")


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
    experiment = resolve(options, experiments.get(options.experiment))
    competition = open_competition(options.data)
    print(*competition.notices, sep="\n", end="\n" if competition.notices else "", flush=True)
    return competition, experiment


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


def _ensemble(runs: list[Run], classes: ClassCounts = "auto") -> Run:
    made = blend_of(runs, classes)
    if made.is_done():
        print(f"[3/4] ensemble: {made.directory.name} is there, skipped")
        return made
    from src.ensemble import blend

    print("[3/4] ensemble:")
    return blend(runs, Table.open(runs[0].store_dir()).labels, classes)


def _submit(competition: Competition, store_dir: Path, blend: Run, plan: Plan,
            options: argparse.Namespace) -> Path | None:
    if not competition.has_test:
        print(f"[4/4] submit: {competition.name} has no test part; the stream ends with the out-of-fold result")
        return None
    out = _out(options)
    print("[4/4] submit:")
    _write(competition, store_dir, blend, out, plan.experiment.name)
    return out


def _write(competition: Competition, store_dir: Path, blend: Run, out: Path, name: str,
           may_replace: bool = False) -> None:
    from src.submit import write_submission

    kept = write_submission(competition, Table.open(store_dir), blend, out, name, may_replace)
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
