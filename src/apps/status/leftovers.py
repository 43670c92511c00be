"""What lies in the workspace that nothing needs: found, and removed under the lock of whoever might still use it.

Spent is what no stage would read again or what it makes again by itself: stores in the making that nobody writes,
checkpoints of finished folds, stores whose input has changed since and that no run refers to, temporary files of
processes that are gone. Runs and blends are never removed.
"""

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from src.base.file_system import flock
from src.base.files import is_held, num_bytes
from src.base.machine import is_alive
from src.base.text import shown_path
from src.base.workspace import FOLDERS, cache_dir, runs_dir, workspace_dir
from src.runs.folder import Run, stores

TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")  # of src.base.files.atomic_open
SETTLED_S = 3600.0  # a temporary file as old as this is in nobody's hands, on another machine neither
IN_THE_MAKING = {"partial-*": "preprocess.lock", "*.partial": "conditions.lock"}  # folders and who writes them


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


def leftovers() -> list[Leftover]:
    """Return what nothing needs, by path."""
    return sorted([*_spent_stores(), *_spent_checkpoints(), *_spent_temporaries()], key=lambda item: item.path)


def remove(leftover: Leftover) -> bool:
    """Remove a leftover, unless a process took its lock meanwhile or it is one no more; return whether it is gone."""
    with _held(leftover.lock) as problem:
        if problem or not leftover.is_spent():
            print(f"{shown_path(leftover.path)}: {problem or 'in use again'}, kept")
            return False
        if leftover.path.is_dir():
            shutil.rmtree(leftover.path)
        else:
            leftover.path.unlink(missing_ok=True)
    return True


def _spent_stores() -> Iterator[Leftover]:
    for folder in sorted(path for path in cache_dir("").glob("*") if path.is_dir()):
        for pattern, name in IN_THE_MAKING.items():
            for path in folder.glob(pattern) if not is_held(folder / name) else ():
                yield Leftover(path, "a store in the making that nobody writes", num_bytes(path), folder / name,
                               path.exists)
        lock = folder / "preprocess.lock"
        if is_held(lock) or _is_busy(folder.name):
            continue
        found, used = [*stores(folder.name)], _used_stores(folder.name)
        for path, meta in found:
            newer = [other for other, its in found if its["settings"] == meta["settings"]
                     and (other / "meta.json").stat().st_mtime > (path / "meta.json").stat().st_mtime]
            if newer and used is not None and meta["digest"] not in used:
                yield Leftover(path, f"the input has changed since: see {newer[-1].name}; no run refers to it",
                               num_bytes(path), lock, lambda name=folder.name: not _is_busy(name))


def _used_stores(competition: str) -> set[str] | None:
    """Return the digests of the stores that anything was or is made from; None where one cannot be told."""
    trials = (workspace_dir() / "data" / "studies" / competition).glob("*/trials/*")
    digests = [run.store_digest for run in (*Run.every(competition), *map(Run, trials))]
    return None if None in digests else set(digests)


def _is_busy(competition: str) -> bool:
    """Return whether anything reads the competition's stores now."""
    locks = [workspace_dir() / "data" / f".{competition}.lock", *runs_dir(competition).glob("*/.lock"),
             *(workspace_dir() / "data" / "studies" / competition).glob("*/workers/*.lock")]
    return any(map(is_held, locks))


def _spent_checkpoints() -> Iterator[Leftover]:
    for run in Run.every():
        for fold in (run.whole, *run.folds):
            for path in fold.checkpoints:
                if fold.is_done() and path.exists() and not is_held(run.lock_path):
                    yield Leftover(path, "a checkpoint of a finished fold", path.stat().st_size, run.lock_path,
                                   fold.is_done)


def _spent_temporaries() -> Iterator[Leftover]:
    root = workspace_dir()
    folders = [root / "data" / name for name in FOLDERS] + [root / "submissions"]
    for path in [*root.glob(".*.tmp"), *(path for folder in folders for path in folder.rglob(".*.tmp"))]:
        number = TEMPORARY.fullmatch(path.name)
        with contextlib.suppress(FileNotFoundError):  # renamed since
            if number and not is_alive(int(number[1])) and time.time() - path.stat().st_mtime > SETTLED_S:
                yield Leftover(path, "a temporary file of a process that is gone", path.stat().st_size, None,
                               path.exists)


@contextlib.contextmanager
def _held(lock_path: Path | None) -> Iterator[str]:
    """Hold a lock file for the block, and say why that is not possible without waiting, or ""."""
    if lock_path is None:
        yield ""
        return
    with open(os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o666), "rb") as file:
        try:
            is_ours = flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB, lock_path)
        except BlockingIOError:
            yield "in use again"
            return
        yield "" if is_ours else "not known to be unused, as files cannot be locked (delete it while nothing runs)"
