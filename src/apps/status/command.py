"""What lies in the workspace: stores, runs, blends, studies and leftovers, with sizes; `--prune` removes what is spent.

    python -m src status [--json]
    python -m src status --prune [--yes]

Reads the stages' files and locks, starts nothing.
"""

import argparse
import contextlib
import csv
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.apps.status.leftovers import IN_THE_MAKING, leftovers, remove
from src.base.errors import SettingError
from src.base.files import is_held, num_bytes, read_json
from src.base.text import aligned, shown_bytes, shown_path, shown_time
from src.base.workspace import FOLDERS, cache_dir, workspace_dir
from src.runs.folder import Run
from src.settings.folds import num_fits


@dataclass(frozen=True)
class StoreStatus:
    """A store. state: "whole", "being made", "partial" (left by a stop) or "torn". num_runs: those made from it."""

    name: str
    state: str
    kind: str
    num_utterances: int
    num_runs: int
    num_bytes: int
    age_s: float


@dataclass(frozen=True)
class RunStatus:
    """A run.

    state: "finished", "running" (its lock is held), "interrupted", or "of an older version" (interrupted, and which
    store it read is not recorded; the same command goes on with it). num_folds: 0 for a run that has none (a
    pretraining). step: of the fold under way as last logged, of `steps`. valid: of a finished run, in its metric.
    """

    name: str
    experiment: str
    digest: str
    state: str
    num_folds_done: int
    num_folds: int
    step: int
    steps: int
    valid: float | None
    num_bytes: int
    age_s: float


@dataclass(frozen=True)
class BlendStatus:
    """A blend of runs. valid: accuracy, cross-fitted where there are several."""

    name: str
    members: list[str]
    valid: float | None
    num_bytes: int
    age_s: float


@dataclass(frozen=True)
class StudyStatus:
    """A search. num_finished: trials, complete or pruned. best: validation accuracy. note: why neither is known."""

    name: str
    state: str
    num_finished: int | None
    best: float | None
    num_bytes: int
    age_s: float
    note: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src status`."""
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--json", action="store_true", help="print everything as JSON")
    asked.add_argument("--prune", action="store_true", help="remove what nothing needs, after listing it and asking")
    parser.add_argument("--yes", action="store_true", help="with --prune: do not ask")


def main(options: argparse.Namespace) -> None:
    """Print what lies in the workspace, and prune it where asked to."""
    if options.yes and not options.prune:
        raise SettingError("status --yes: answers the question that --prune asks; add --prune")
    found, spent = survey(), leftovers()
    if options.json:
        content = {key: [dataclasses.asdict(item) for item in items] for key, items in found.items()}
        content["leftovers"] = [{"path": str(item.path), "why": item.why, "num_bytes": item.num_bytes}
                                for item in spent]
        print(json.dumps({"workspace": str(workspace_dir()), **content}, indent=1, ensure_ascii=False))
        return
    print(_shown(found))
    if spent:
        print(f"\nleftovers, {shown_bytes(sum(item.num_bytes for item in spent))}"
              + ("" if options.prune else " (removed by --prune)"))
        print(aligned([(shown_path(item.path), shown_bytes(item.num_bytes), item.why) for item in spent], {1}))
    elif options.prune:
        print("\nnothing to prune")
    if options.prune and spent and (options.yes or _agreed(len(spent))):
        removed = [item for item in spent if remove(item)]
        print(f"removed {len(removed)} of {len(spent)}, {shown_bytes(sum(item.num_bytes for item in removed))}")


def survey() -> dict[str, list]:
    """Return {"stores", "runs", "blends", "studies"} of the workspace, each sorted by name."""
    every = Run.every()
    runs = [_run_status(run) for run in every if not run.is_blend]
    blends = [_blend_status(run) for run in every if run.is_blend and run.is_done()]
    used = [(run.competition, run.store_digest) for run in every if not run.is_blend]
    stores = [_store_status(path, used) for path in sorted(cache_dir("").glob("*/*-*")) if path.is_dir()]
    return {"stores": stores, "runs": runs, "blends": blends, "studies": _studies()}


def _run_status(run: Run) -> RunStatus:
    path = run.experiment_path
    experiment = read_json(path) if path.exists() else {}  # as it stands, for another version may have written it
    is_done = run.is_done()
    under_way = [fold.log_path for fold in (run.whole, *run.folds) if fold.log_path.exists() and not fold.is_done()]
    has_folds = "folds" in experiment and not run.pretraining_path.exists()
    is_older = not is_done and run.store_digest is None and path.exists()
    unfinished = "of an older version" if is_older else "interrupted"
    return RunStatus(
        name=run.run_id, experiment=experiment.get("name", ""), digest=run.directory.name.rpartition("-")[2],
        state="finished" if is_done else "running" if is_held(run.lock_path) else unfinished,
        num_folds_done=sum(fold.is_done() for fold in run.folds),
        num_folds=num_fits(experiment["folds"]) if has_folds else 0,
        step=max(map(_last_step, under_way), default=0), steps=experiment.get("train", {}).get("steps", 0),
        valid=run.result.get("valid") if is_done else None,
        num_bytes=num_bytes(run.directory), age_s=_age_s(run.directory))


def _last_step(log_path: Path) -> int:
    with open(log_path, encoding="utf-8", newline="") as file:
        return int(float([*csv.DictReader(file)][-1]["step"]))


def _blend_status(blend: Run) -> BlendStatus:
    return BlendStatus(blend.run_id, sorted(blend.result["members"]), blend.result["valid"],
                       num_bytes(blend.directory), _age_s(blend.directory))


def _store_status(directory: Path, used: Sequence[tuple[str, str | None]]) -> StoreStatus:
    state, meta = "whole", {}
    making = next((lock for pattern, lock in IN_THE_MAKING.items() if directory.match(pattern)), "")
    if making:
        state = "being made" if is_held(directory.parent / making) else "partial"
    else:
        try:
            meta = read_json(directory / "meta.json")
        except (OSError, ValueError):
            state = "torn"
    kind = meta.get("kind", "")
    return StoreStatus(_name(directory), state, kind, meta.get("num_utterances", 0),
                       used.count((directory.parent.name, meta["digest"])) if "digest" in meta else 0,
                       num_bytes(directory), _age_s(directory))


def _studies() -> list[StudyStatus]:
    root = workspace_dir() / "data" / "studies"
    directories = sorted(path for path in root.glob("*/*-*") if path.is_dir())
    if not directories:
        return []
    from src.apps.status.trials import trials_of

    found = []
    for directory in directories:
        name = _name(directory)
        is_running = any(is_held(path) for path in directory.glob("workers/*.lock"))
        num_finished, best, note = trials_of(directory.parent / f"{directory.name.rpartition('-')[0]}.db", name)
        found.append(StudyStatus(name, "running" if is_running else "stopped", num_finished, best,
                                 num_bytes(directory), _age_s(directory), note))
    return found


def _name(directory: Path) -> str:
    return f"{directory.parent.name}/{directory.name}"


def _age_s(directory: Path) -> float:
    """Return the seconds since anything in a folder was written last."""
    newest = directory.stat().st_mtime
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                newest = max(newest, os.lstat(os.path.join(folder, name)).st_mtime)
    return max(0.0, round(time.time() - newest, 1))


def _agreed(number: int) -> bool:
    """Ask whether to remove so many things; raises SettingError where nobody can answer."""
    if not sys.stdin.isatty():
        raise SettingError("status --prune: nobody is there to ask; add --yes to remove what is listed")
    return input(f"remove these {number}? [y/N] ").strip().lower() in ("y", "yes")


def _shown(found: dict[str, list]) -> str:
    """Return the survey as text."""
    def accuracy(value: float | None) -> str:
        return "" if value is None else f"valid {value:.4f}"

    def progress(run: RunStatus) -> str:
        of = f" of {run.steps:,}" if run.steps else ""  # of bert_nli not known before it ends
        at = f"step {run.step:,}{of}" if run.step else f"{run.steps:,} steps" if run.steps else ""
        return ", ".join(filter(None, (f"{run.num_folds_done} of {run.num_folds} folds" * bool(run.num_folds), at)))

    def number_of_runs(number: int) -> str:
        return f"{number} run{'s' * (number != 1)}"

    rows = {
        "stores": [(s.name, s.state, f"{s.num_utterances:,} utterances" if s.num_utterances else "",
                    number_of_runs(s.num_runs)) for s in found["stores"]],
        "runs": [(r.name, r.state, progress(r), accuracy(r.valid)) for r in found["runs"]],
        "blends": [(b.name, "", number_of_runs(len(b.members)), accuracy(b.valid)) for b in found["blends"]],
        "studies": [(s.name, s.state, s.note or f"{s.num_finished} trials", accuracy(s.best))
                    for s in found["studies"]],
    }
    parts = [f"workspace: {workspace_dir()}"]
    for title, words in rows.items():
        lines = [(*line, shown_bytes(item.num_bytes), f"{shown_time(item.age_s)} ago")
                 for line, item in zip(words, found[title])]
        size = shown_bytes(sum(item.num_bytes for item in found[title]))
        parts += ["", f"{title}: {len(lines)}, {size}", aligned(lines, {4, 5})] if lines else ["", f"{title}: none"]
    total = sum(num_bytes(workspace_dir() / "data" / name) for name in FOLDERS)
    return "\n".join([*parts, "", f"in all {shown_bytes(total)} under data/{', data/'.join(FOLDERS)}"])
