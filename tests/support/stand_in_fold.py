"""Stand-ins for `train_fold` that the processes of training/test_workers.py import: no torch, no training."""

import os
import signal
import time
from pathlib import Path

from src.base.errors import DivergedError
from src.base.signals import stay_deaf


def train_until_stopped(plan, store, fold, place):
    """Fold 2 diverges and fold 3 is killed, each once fold 1 is under way; the others go on until they are stopped."""
    directory = Path(store)
    (directory / f"{fold}.begun").write_text(str(os.getpid()))
    while fold > 0 and not (directory / "0.begun").exists():
        time.sleep(0.01)
    if fold == 1:
        raise DivergedError("fold 2: the loss is not finite")
    if fold == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    while not place.stop.is_set():
        time.sleep(0.01)
    (directory / f"{fold}.saved").touch()
    raise KeyboardInterrupt


def train_at_once(plan, store, fold, place):
    """Say by which process a fold was trained."""
    time.sleep(0.05)
    Path(store, f"{fold}.done").write_text(f"{place.number} {os.getpid()}")


def fail_strangely(plan, store, fold, place):
    """Raise what no other process can be sent."""
    class Strange(Exception):
        """Defined where pickle does not find it."""

    raise Strange("a compiler's")


def live_deaf(directory):
    """Become deaf late, as a process does that imports torch first."""
    time.sleep(0.3)
    stay_deaf()
    Path(directory, "deaf").touch()
    time.sleep(0.3)
