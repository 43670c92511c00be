"""The folder of a run: its files, folds, store and logits."""

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from src.base.errors import RunError, SettingError, nearest
from src.base.files import read_json
from src.base.workspace import cache_dir, runs_dir
from src.runs.logits import read_logits
from src.settings.config import Experiment, from_json

if TYPE_CHECKING:
    from src.store.store import Store


def find_run(name: str) -> Path:
    """Return the folder of the one run whose `<competition>/<experiment>-<digest8>` starts with `name`.

    Of several the one that is finished, where only one is. A name without a competition is looked for in all of them.
    Raises SettingError when none or several match.
    """
    root = runs_dir()
    ids = [f"{path.parent.name}/{path.name}" for path in root.glob("*/*-*") if path.is_dir()]
    if name in ids:
        return root / name
    matches = sorted(i for i in ids if i.startswith(name) or i.partition("/")[2].startswith(name))
    finished = [match for match in matches if (root / match / "result.json").exists()]
    matches = finished if len(finished) == 1 else matches  # what was begun and left is seldom meant
    if len(matches) == 1:
        return root / matches[0]
    if matches:
        raise SettingError(f"run '{name}' is not unique: {', '.join(matches[:8])}")
    raise SettingError(f"no run '{name}'{nearest(name, ids)}")


def read_result(run_dir: Path) -> dict[str, Any]:
    """Return what a finished run or blend says of itself; raises RunError for an unfinished one."""
    path = run_dir / "result.json"
    if not path.exists():
        raise RunError(f"{run_dir}: the run is not finished; run its train stage first")
    result = read_json(path)
    if result.get("metric", "accuracy") != "accuracy":
        raise SettingError(f"{run_dir.name}: its result is a {result['metric']}; only runs that classify can be "
                           "blended and submitted")
    if "store" not in result:
        raise SettingError(f"{run_dir.name}: not a run on a competition's speakers, so it can be neither blended nor "
                           "submitted")
    return result


def store_of(run_dir: Path) -> Path:
    """Return the store that a finished run or blend was made from; raises RunError when it is gone."""
    wanted = read_json(run_dir / "result.json")["store"]
    for meta in cache_dir(run_dir.parent.name).glob("*/meta.json"):
        if read_json(meta)["digest"] == wanted:
            return meta.parent
    raise RunError(f"{run_dir.name}: its store {wanted[:8]} is gone; the preprocess stage with the run's --data, "
                   "--experiment and --set makes it again")


def num_folds(folds: int | Literal["all"]) -> int:
    """Return how many models a run with such folds fits."""
    return 1 if folds == "all" else folds


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
        from src.store.store import Store

        return Store.open(store_of(self.directory))

    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Return store rows (N,) and logits (N, C) of the utterances that each fold held out, none for folds="all"."""
        rows, logits = zip(*[read_logits(path / "valid.npz") for path in self.fold_dirs])
        return np.concatenate(rows), np.concatenate(logits)


def _has_models(directory: Path) -> bool:
    return (directory / "fold_0" / "model.pt").exists()
