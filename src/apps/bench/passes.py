"""Passes over all units: reading the files, preprocessing them. No torch until a case is opened.

A case is a frozen description: where the input or the store lies, an experiment. `open` makes ready what it measures,
in the process that measures it, so that neither an import nor an earlier case counts and cases that are compared can be
measured in turn. What it returns is a meter: units a second over about so many seconds.
"""

import contextlib
import importlib
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from src.base.workspace import cache_dir
from src.competition.open import Competition
from src.settings.config import Features
from src.store.ensure import ensure_store

READ_BYTES = 1 << 17  # at once, as cat does


class Meter(Protocol):
    """A case made ready."""

    def rate(self, seconds: float) -> float:
        """Return units a second, measured over about `seconds`; 0 measures as little as there is."""


class Passes:
    """A job over all units, begun anew each time; `clear`, which is not measured, forgets what the last one left."""

    def __init__(self, work: Callable[[], None], num_units: int, clear: Callable[[], None] = lambda: None) -> None:
        self.work, self.num_units, self.clear = work, num_units, clear

    def rate(self, seconds: float) -> float:
        """Return units a second over whole passes, as many as begin within `seconds`, at least one."""
        passes, took = 0, 0.0
        while not passes or took < seconds:
            self.clear()
            started = time.perf_counter()
            self.work()
            took += time.perf_counter() - started
            passes += 1
        return passes * self.num_units / took


@dataclass(frozen=True)
class Reading:
    """Read every file of a competition and do nothing with it; utterances a second."""

    competition: Competition

    def open(self) -> Passes:
        """List the files, each once."""
        root = str(self.competition.directory) + os.sep
        paths = [root + path for path in dict.fromkeys(u.path for u in self.competition.utterances)]
        return Passes(lambda: _read(paths), len(self.competition.utterances))


@dataclass(frozen=True)
class Preprocessing:
    """Make the store of a competition from nothing, in a workspace whose cache of it is lost; utterances a second."""

    competition: Competition
    features: Features

    def open(self) -> Passes:
        """Import what the stage imports, torch among it, which takes seconds."""
        importlib.import_module("src.store.decoder")

        def work() -> None:
            with silence():
                ensure_store(self.competition, self.features)

        def clear() -> None:
            shutil.rmtree(cache_dir(self.competition.name), ignore_errors=True)

        return Passes(work, len(self.competition.utterances), clear)


def part_of(competition: Competition, divisor: int) -> Competition:
    """Return a competition of every divisor-th training and test utterance of `competition`, in the same folder."""
    utterances = [[u for u in competition.utterances if u.split == split][::divisor] for split in ("train", "test")]
    return replace(competition, utterances=(*utterances[0], *utterances[1]))


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep a stage's messages and progress bars off the table."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _read(paths: list[str]) -> None:
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            while os.read(file, READ_BYTES):
                pass
        finally:
            os.close(file)
