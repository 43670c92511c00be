"""A run's folds trained side by side, each in a process of its own: a second thread does little for a small model.

In: a plan, its store, the folds that remain and what trains one. Out: what that leaves, to the last bit what one fold
after the other would have left. This process only waits, and hands a stop on to the others, so that each saves.
"""

import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from src.base.errors import RunError, SettingError, SpeakerIDError
from src.base.signals import start_deaf, stay_deaf, stop_signals
from src.runs.plan import Plan
from src.settings.auto import room_for_folds

if TYPE_CHECKING:
    from src.store.store import Store

TrainFold = Callable[[Plan, "Store", int, "Place"], None]
VARIABLE = "SPEAKER_ID_FOLDS_AT_ONCE"
LOOK_EVERY_S = 0.2  # for a stop that is asked for


def num_at_once(threads: int, num_folds: int) -> int:
    """Return how many folds to train at the same time: as many as there is room for, at most `num_folds`.

    The environment variable SPEAKER_ID_FOLDS_AT_ONCE says another number, where memory is short, say.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked and not (asked.isdecimal() and int(asked)):
        raise SettingError(f"{VARIABLE}={asked}: write a whole number above 0")
    return min(int(asked) if asked else room_for_folds(threads), num_folds)


def run(train_fold: TrainFold, plan: Plan, store: "Store", folds: Sequence[int], count: int) -> None:
    """Train `folds` of a plan, `count` of them at a time, by train_fold(plan, store, fold, place).

    An error in one, raised here (a library's as a RuntimeError that names it), stops the others after the step under
    way, and they save; so does a Ctrl-C or SIGTERM, and a second one kills them. Raises RunError where a process was
    killed.
    """
    context, todo = multiprocessing.get_context("spawn"), list(folds)
    stop, bar_lock = context.Event(), context.RLock()
    workers: list[_Worker] = []
    failure: BaseException | None = None
    try:
        with stop_signals() as stop_asked:
            for number in range(count):
                workers.append(_Worker(context, train_fold, plan, store, Place(number, bar_lock, stop)))
            busy = {worker.pipe: worker for worker in workers if worker.begin(todo)}
            while busy:
                for pipe in wait(list(busy), timeout=LOOK_EVERY_S):
                    worker = busy.pop(pipe)
                    answer = worker.answer()
                    failure = failure or answer
                    if not stop.is_set() and not failure and worker.begin(todo):
                        busy[pipe] = worker
                if failure or stop_asked():
                    stop.set()
        if failure or todo:
            raise failure or KeyboardInterrupt
    finally:
        for worker in workers:
            worker.close()


@dataclass(frozen=True)
class Place:
    """A worker's among the others: the line of its progress bar, and what they share."""

    number: int
    bar_lock: Any
    stop: Any  # an event, set when all are to stop


class _Worker:
    """A process that trains the folds it is told, one after the other."""

    def __init__(self, context: Any, *task: Any) -> None:
        self.fold = -1
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, *task), daemon=True)
        start_deaf(self.process)
        theirs.close()

    def begin(self, todo: list[int]) -> bool:
        """Take the next fold; return whether there was one."""
        if not todo:
            return False
        self.fold = todo.pop(0)
        self.pipe.send(self.fold)
        return True

    def answer(self) -> BaseException | None:
        """Return the error that a fold ended with, None where it is done."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return RunError(f"fold {self.fold + 1}: its process died with exit code {self.process.exitcode} (-9: "
                            f"mostly for want of memory); {VARIABLE}=1 before the same command trains one fold after "
                            "the other")

    def close(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, train_fold: TrainFold, plan: Plan, store: "Store", place: Place) -> None:
    """Train what the parent says until it kills this process or is gone."""
    stay_deaf()  # the parent, which gets a Ctrl-C too, says when to stop
    threading.Thread(target=_stop_with_parent, args=(place.stop,), daemon=True).start()
    tqdm.set_lock(place.bar_lock)
    while True:
        try:
            fold = pipe.recv()
        except EOFError:
            return
        answer: BaseException | None = None
        try:
            train_fold(plan, store, fold, place)
        except (KeyboardInterrupt, SpeakerIDError, OSError) as error:
            answer = error
        except Exception as error:  # of any library, whose errors may hold what no other process can be sent
            answer = RuntimeError(f"{type(error).__name__}: {error}")
            answer.add_note(traceback.format_exc())
        sys.stdout.flush()
        pipe.send(answer)


def _stop_with_parent(stop: Any) -> None:
    multiprocessing.parent_process().join()
    stop.set()
