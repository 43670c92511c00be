"""A run that is done, as those who use its models see it: its folds, its store and its out-of-fold logits.

Goes in: a run's folder under data/runs. Used by predict, export, open-set and head_importance.
"""

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.config import Experiment, from_json
from src.errors import RunError, SettingError, nearest
from src.files import read_json
from src.logits import read_logits
from src.plan import find_run, store_of
from src.workspace import runs_dir

if TYPE_CHECKING:
    from src.store import Store

OPEN_SET_PREFIX = "open_set_"  # of the runs that open-set trains, which know fewer speakers than the competition has


@dataclass(frozen=True)
class FinishedRun:
    """A finished run's folder and result."""

    directory: Path
    result: dict[str, Any]

    @classmethod
    def open(cls, name: str) -> "FinishedRun":
        """Return the run of this name or unique prefix; raises SettingError or RunError where it has no models."""
        directory = find_run(name)
        if directory.name.startswith("ensemble-"):
            members = read_json(directory / "result.json").get("members", {})
            raise SettingError(f"{directory.name} is a blend, which has no model of its own; name one of its runs: "
                               f"{', '.join(members)}")
        if not (directory / "result.json").exists():
            raise RunError(f"{directory}: the run is not finished; run its train stage first")
        if not _has_models(directory):
            raise RunError(f"{directory}: no fold_0/model.pt, so it holds no speaker model; name another run")
        return cls(directory, read_json(directory / "result.json"))

    @classmethod
    def newest(cls, competition: str) -> "FinishedRun":
        """Return the competition's run that finished last; raises SettingError when there is none."""
        found = [cls(path, read_json(path / "result.json")) for path in runs_dir(competition).glob("*-*")
                 if (path / "result.json").exists() and _has_models(path)
                 and not path.name.startswith(OPEN_SET_PREFIX)]
        if not found:
            others = {path.parent.parent.name for path in runs_dir().glob("*/*-*/result.json")}
            raise SettingError(f"no finished run of '{competition}'{nearest(competition, others)}; train one: "
                               f"bash run.sh --data {shlex.quote(competition)}")
        return max(found, key=lambda run: (run.result["finished"], (run.directory / "result.json").stat().st_mtime_ns))

    @property
    def run_id(self) -> str:
        """<competition>/<experiment>-<digest8>."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @cached_property
    def experiment(self) -> Experiment:
        """The complete experiment that was trained."""
        return from_json(read_json(self.directory / "experiment.json"))

    @property
    def fold_dirs(self) -> list[Path]:
        """The folds' folders by number."""
        return sorted(self.directory.glob("fold_*"), key=lambda path: int(path.name[5:]))

    def store(self) -> "Store":
        """Open the store that the run was trained on; raises RunError when it is gone."""
        from src.store import Store

        return Store.open(store_of(self.directory))

    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Return store rows (N,) and logits (N, C) of the utterances that each fold held out, none for folds="all"."""
        rows, logits = zip(*[read_logits(path / "valid.npz") for path in self.fold_dirs])
        return np.concatenate(rows), np.concatenate(logits)


def _has_models(directory: Path) -> bool:
    return (directory / "fold_0" / "model.pt").exists()
