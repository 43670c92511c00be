"""What lies in the workspace: stores, runs, blends, studies and leftovers, with sizes; `--prune` removes what is spent.

    python -m src status [--json]
    python -m src status --prune [--yes]

Reads the stages' files and locks, starts nothing. Spent is what no stage would read again or what it makes again by
itself: stores in the making that nobody writes, checkpoints of finished folds, stores whose input has changed since and
that no run refers to, temporary files of processes that are gone. Runs and blends are never removed.
"""

import argparse
import contextlib
import csv
import dataclasses
import fcntl
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from src.config import from_json
from src.errors import SettingError, SpeakerIDError
from src.files import read_json
from src.plan import make_plan
from src.workspace import cache_dir, runs_dir, workspace_dir

TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")  # of src.files.atomic_open
SETTLED_S = 3600.0  # a temporary file as old as this is in nobody's hands, on another machine neither
CHECKPOINTS = ("last.pt", "best.pt")
IN_THE_MAKING = {"partial-*": "preprocess.lock", "*.partial": "conditions.lock"}  # folders and who writes them
FOLDERS = ("cache", "runs", "studies")


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
    """A run. state: "finished", "running" (its lock is held) or "interrupted".

    num_folds: 0 for a run that has none (a pretraining). step: of the fold under way as last logged, of `steps`. valid:
    of a finished run, in its metric.
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


@dataclass(frozen=True)
class Leftover:
    """What nothing needs.

    lock: the lock file under which it may be removed; None where nobody can hold it. is_spent: asks once more, then.
    """

    path: Path
    why: str
    num_bytes: int
    lock: Path | None
    is_spent: Callable[[], bool]


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
        print(_aligned([(shown_path(item.path), shown_bytes(item.num_bytes), item.why) for item in spent], {1}))
    elif options.prune:
        print("\nnothing to prune")
    if options.prune and spent and (options.yes or _agreed(len(spent))):
        removed = [item for item in spent if remove(item)]
        print(f"removed {len(removed)} of {len(spent)}, {shown_bytes(sum(item.num_bytes for item in removed))}")


def survey() -> dict[str, list]:
    """Return {"stores", "runs", "blends", "studies"} of the workspace, each sorted by name."""
    directories = [path for path in sorted(runs_dir().glob("*/*-*")) if path.is_dir()]
    is_blend = [path.name.startswith("ensemble-") for path in directories]
    runs = [_run_status(path) for path, is_one in zip(directories, is_blend) if not is_one]
    blends = [_blend_status(path) for path, is_one in zip(directories, is_blend)
              if is_one and (path / "result.json").exists()]
    used = [_store_digest(runs_dir() / run.name) for run in runs]
    stores = [_store_status(path, used) for path in sorted(cache_dir("").glob("*/*-*")) if path.is_dir()]
    return {"stores": stores, "runs": runs, "blends": blends, "studies": _studies()}


def store_of(run_dir: Path) -> Path | None:
    """Return the store that a run, finished or not, is made from; None where it is gone."""
    wanted = _store_digest(run_dir)
    return next((path for path, meta in _stores(run_dir.parent.name) if meta["digest"] == wanted), None)


def num_folds(folds: int | Literal["all"]) -> int:
    """Return how many models a run with such folds fits."""
    return 1 if folds == "all" else folds


def is_held(lock_path: Path) -> bool:
    """Return whether a live process holds a lock file of `src.files.lock`."""
    try:
        with open(lock_path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def leftovers() -> list[Leftover]:
    """Return what nothing needs, by path."""
    return sorted([*_spent_stores(), *_spent_checkpoints(), *_spent_temporaries()], key=lambda item: item.path)


def remove(leftover: Leftover) -> bool:
    """Remove a leftover, unless a process took its lock meanwhile or it is one no more; return whether it is gone."""
    with _held(leftover.lock) as is_ours:
        if not is_ours or not leftover.is_spent():
            print(f"{shown_path(leftover.path)}: in use again, kept")
            return False
        if leftover.path.is_dir():
            shutil.rmtree(leftover.path)
        else:
            leftover.path.unlink(missing_ok=True)
    return True


def shown_bytes(number: int) -> str:
    """Return a size in decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:,.1f} {unit}" if number < 10 * size else f"{number / size:,.0f} {unit}"
    return f"{number} B"


def shown_time(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def shown_path(path: Path) -> str:
    """Return a path as seen from the workspace, where it lies there."""
    return str(path.relative_to(workspace_dir())) if path.is_relative_to(workspace_dir()) else str(path)


def _run_status(directory: Path) -> RunStatus:
    path = directory / "experiment.json"
    experiment = read_json(path) if path.exists() else {}  # as it stands, for another version may have written it
    is_done, is_pretraining = (directory / "result.json").exists(), (directory / "pretrain.json").exists()
    under_way = [path for path in (*directory.glob("log.csv"), *directory.glob("fold_*/log.csv"))
                 if not path.with_name("result.json").exists()]
    return RunStatus(
        name=_name(directory), experiment=experiment.get("name", ""), digest=directory.name.rpartition("-")[2],
        state="finished" if is_done else "running" if is_held(directory / ".lock") else "interrupted",
        num_folds_done=len(list(directory.glob("fold_*/result.json"))),
        num_folds=0 if is_pretraining or "folds" not in experiment else num_folds(experiment["folds"]),
        step=max(map(_last_step, under_way), default=0), steps=experiment.get("train", {}).get("steps", 0),
        valid=read_json(directory / "result.json").get("valid") if is_done else None,
        num_bytes=_num_bytes(directory), age_s=_age_s(directory))


def _last_step(log_path: Path) -> int:
    with open(log_path, encoding="utf-8", newline="") as file:
        return int(float([*csv.DictReader(file)][-1]["step"]))


def _blend_status(directory: Path) -> BlendStatus:
    result = read_json(directory / "result.json")
    return BlendStatus(_name(directory), sorted(result["members"]), result["valid"], _num_bytes(directory),
                       _age_s(directory))


def _store_status(directory: Path, used: Sequence[str | None]) -> StoreStatus:
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
                       sum(digest == meta["digest"] for digest in used) if "digest" in meta else 0,
                       _num_bytes(directory), _age_s(directory))


def _studies() -> list[StudyStatus]:
    root = workspace_dir() / "data" / "studies"
    found = []
    for directory in sorted(path for path in root.glob("*/*-*") if path.is_dir()):
        name = _name(directory)
        is_running = any(is_held(path) for path in directory.glob("workers/*.lock"))
        num_finished, best, note = _trials(directory.parent / f"{directory.name.rpartition('-')[0]}.db", name)
        found.append(StudyStatus(name, "running" if is_running else "stopped", num_finished, best,
                                 _num_bytes(directory), _age_s(directory), note))
    return found


def _trials(storage_path: Path, study_name: str) -> tuple[int | None, float | None, str]:
    """Return a study's finished trials, its best value, and why they are not known."""
    if not storage_path.exists():
        return None, None, "in a storage elsewhere"
    import optuna

    from src.study import num_finished
    from src.study_storage import open_storage

    try:
        study = optuna.load_study(study_name=study_name, storage=open_storage(f"sqlite:///{storage_path}"))
        complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        return num_finished(study), max((trial.value for trial in complete), default=None), ""
    except (KeyError, SpeakerIDError) as error:
        return None, None, f"not in {storage_path.name}" if isinstance(error, KeyError) else str(error)


def _store_digest(run_dir: Path) -> str | None:
    """Return the digest of a run's store: as its result says, else of the store that gives the run its name."""
    if (run_dir / "result.json").exists():
        return read_json(run_dir / "result.json").get("store")
    if not (run_dir / "experiment.json").exists():
        return None
    named = run_dir.name.rpartition("-")[2]
    content = read_json(run_dir / "experiment.json")
    for path, meta in _stores(run_dir.parent.name):
        with contextlib.suppress(SettingError):  # a store of another kind, or settings of another version or machine
            if make_plan(run_dir.parent.name, path, from_json(content)).digest.startswith(named):
                return meta["digest"]
    return None


def _stores(competition: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the whole stores of a competition that preprocess made, with what they say of themselves."""
    for path in sorted(cache_dir(competition).glob("*/meta.json")):
        with contextlib.suppress(OSError, ValueError):
            meta = read_json(path)
            if path.parent.name == f"{meta.get('kind')}-{meta.get('digest', '')[:8]}":
                yield path.parent, meta


def _spent_stores() -> Iterator[Leftover]:
    for folder in sorted(path for path in cache_dir("").glob("*") if path.is_dir()):
        for pattern, name in IN_THE_MAKING.items():
            for path in folder.glob(pattern) if not is_held(folder / name) else ():
                yield Leftover(path, "a store in the making that nobody writes", _num_bytes(path), folder / name,
                               path.exists)
        lock = folder / "preprocess.lock"
        if is_held(lock) or _is_busy(folder.name):
            continue
        stores, used = [*_stores(folder.name)], _used_stores(folder.name)
        for path, meta in stores:
            newer = [other for other, its in stores if its["settings"] == meta["settings"]
                     and (other / "meta.json").stat().st_mtime > (path / "meta.json").stat().st_mtime]
            if newer and used is not None and meta["digest"] not in used:
                yield Leftover(path, f"the input has changed since: see {newer[-1].name}; no run refers to it",
                               _num_bytes(path), lock, lambda name=folder.name: not _is_busy(name))


def _used_stores(competition: str) -> set[str] | None:
    """Return the digests of the stores that anything was or is made from; None where one cannot be told."""
    digests = [_store_digest(directory) for directory in runs_dir(competition).glob("*-*") if directory.is_dir()]
    for directory in (workspace_dir() / "data" / "studies" / competition).glob("*/trials/*"):
        if (directory / "result.json").exists():
            digests.append(read_json(directory / "result.json")["store"])
        elif (directory / "experiment.json").exists():
            return None  # a trial under way is named otherwise than a run
    return None if None in digests else set(digests)


def _is_busy(competition: str) -> bool:
    """Return whether anything reads the competition's stores now."""
    locks = [workspace_dir() / "data" / f".{competition}.lock", *runs_dir(competition).glob("*/.lock"),
             *(workspace_dir() / "data" / "studies" / competition).glob("*/workers/*.lock")]
    return any(map(is_held, locks))


def _spent_checkpoints() -> Iterator[Leftover]:
    for name in CHECKPOINTS:
        for path in (*runs_dir().glob(f"*/*-*/{name}"), *runs_dir().glob(f"*/*-*/fold_*/{name}")):
            lock = (path.parent.parent if path.parent.name.startswith("fold_") else path.parent) / ".lock"
            if path.with_name("result.json").exists() and not is_held(lock):
                yield Leftover(path, "a checkpoint of a finished fold", path.stat().st_size, lock,
                               path.with_name("result.json").exists)


def _spent_temporaries() -> Iterator[Leftover]:
    root = workspace_dir()
    folders = [root / "data" / name for name in FOLDERS] + [root / "submissions"]
    for path in [*root.glob(".*.tmp"), *(path for folder in folders for path in folder.rglob(".*.tmp"))]:
        number = TEMPORARY.fullmatch(path.name)
        with contextlib.suppress(FileNotFoundError):  # renamed since
            if number and not _is_alive(int(number[1])) and time.time() - path.stat().st_mtime > SETTLED_S:
                yield Leftover(path, "a temporary file of a process that is gone", path.stat().st_size, None,
                               path.exists)


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextlib.contextmanager
def _held(lock_path: Path | None) -> Iterator[bool]:
    """Hold a lock file for the block, and say whether that was possible without waiting."""
    if lock_path is None:
        yield True
        return
    with open(lock_path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _name(directory: Path) -> str:
    return f"{directory.parent.name}/{directory.name}"


def _num_bytes(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


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
        at = f"step {run.step:,} of {run.steps:,}" if run.step else f"{run.steps:,} steps" if run.steps else ""
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
        parts += ["", f"{title}: {len(lines)}, {size}", _aligned(lines, {4, 5})] if lines else ["", f"{title}: none"]
    total = sum(_num_bytes(workspace_dir() / "data" / name) for name in FOLDERS)
    return "\n".join([*parts, "", f"in all {shown_bytes(total)} under data/{', data/'.join(FOLDERS)}"])


def _aligned(rows: Sequence[Sequence[str]], right: set[int]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  " + "  ".join(cell.rjust(width) if at in right else cell.ljust(width)
                                      for at, (cell, width) in enumerate(zip(row, widths)) if width).rstrip()
                     for row in rows)
