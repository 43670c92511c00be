"""The folder of a run or blend: the one owner of its files' names, its folds, its state and the store that it read.

    data/runs/<competition>/<experiment>-<digest8>/
        experiment.json                  the complete experiment, written when the run begins
        run.json                         the digests of the run and of its store, written when it begins
        fold_0/log.csv                   what each report of the training said
        fold_0/last.pt, best.pt          checkpoints, while the fold is trained
        fold_0/model.pt                  the fold's model
        fold_0/valid.npz, test.npz       logits of held-out and of test utterances
        fold_0/result.json               written last: the fold is done
        result.json                      written last: the run is done
        conditions.json, conditions.npz, open_set.json   what these commands measured of the run

A blend lies in ensemble-<digest8> next to the runs that it blends, with valid.npz, test.npz, pseudo_labels.npz and
result.json. Nothing here imports torch.
"""

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.base.errors import RunError, SettingError, nearest
from src.base.files import digest, read_json, write_json
from src.base.workspace import cache_dir, runs_dir
from src.runs.logits import read_logits
from src.settings.config import Experiment, from_json, to_json

OPEN_SET_PREFIX = "open_set_"  # of the runs that open-set trains, which know fewer speakers
ENSEMBLE_VERSION = 3  # raise it when the ensemble stage's code changes what a blend computes
LAST, BEST = CHECKPOINTS = ("last.pt", "best.pt")
ClassCounts = Literal["auto", "even", "any"]  # of the test part: told from the predictions, all the same, unknown


@dataclass(frozen=True)
class RunFold:
    """The folder of one fold."""

    directory: Path

    @property
    def number(self) -> int:
        """The fold's number, from 0."""
        return int(self.directory.name.removeprefix("fold_"))

    @property
    def log_path(self) -> Path:
        """The CSV table of the training's reports."""
        return self.directory / "log.csv"

    @property
    def model_path(self) -> Path:
        """The fold's speaker model."""
        return self.directory / "model.pt"

    @property
    def valid_path(self) -> Path:
        """The logits of the utterances that the fold held out."""
        return self.directory / "valid.npz"

    @property
    def test_path(self) -> Path:
        """The logits of the test utterances."""
        return self.directory / "test.npz"

    @property
    def result_path(self) -> Path:
        """The fold's figures; the file is there once the fold is done."""
        return self.directory / "result.json"

    @property
    def checkpoints(self) -> list[Path]:
        """The files that a stopped training goes on from."""
        return [self.directory / name for name in CHECKPOINTS]

    @property
    def heavy_paths(self) -> list[Path]:
        """The files that a search's trial does not keep."""
        return [self.model_path, self.valid_path, self.test_path, *self.checkpoints]

    def is_done(self) -> bool:
        """Return whether the fold has been trained."""
        return self.result_path.exists()

    def result(self) -> dict[str, Any]:
        """Return the figures of a fold that is done."""
        return read_json(self.result_path)

    def finish(self, result: dict[str, Any]) -> None:
        """Write the fold's figures, which says that it is done, and remove its checkpoints."""
        write_json(self.result_path, result)
        for path in self.checkpoints:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Run:
    """The folder of a run or a blend, whatever its state."""

    directory: Path

    # Which run -------------------------------------------------------------------------------------------------------

    @classmethod
    def every(cls, competition: str = "*") -> list["Run"]:
        """Return the runs and blends of a competition, or of all competitions, by name."""
        return [cls(path) for path in sorted(runs_dir().glob(f"{competition}/*-*")) if path.is_dir()]

    @classmethod
    def find(cls, name: str) -> "Run":
        """Return the one run or blend whose `<competition>/<experiment>-<digest8>` starts with `name`.

        Of several it is the finished one, where only one is finished. A name without a competition is looked for in all
        of them. Raises SettingError when none or several match.
        """
        by_id = {run.run_id: run for run in cls.every()}
        if name in by_id:
            return by_id[name]
        matches = [i for i in by_id if i.startswith(name) or i.partition("/")[2].startswith(name)]
        finished = [i for i in matches if by_id[i].is_done()]
        matches = finished if len(finished) == 1 else matches  # what was begun and left is seldom meant
        if len(matches) == 1:
            return by_id[matches[0]]
        if matches:
            raise SettingError(f"run '{name}' is not unique: {', '.join(matches[:8])}")
        raise SettingError(f"no run '{name}'{nearest(name, by_id)}")

    @classmethod
    def open(cls, name: str) -> "Run":
        """Return the finished run with speaker models of this name; raises SettingError or RunError for any other."""
        run = cls.find(name)
        if run.is_blend:
            members = read_json(run.result_path).get("members", {}) if run.is_done() else {}
            raise SettingError(f"{run.directory.name} is a blend, which has no model of its own; name one of its runs: "
                               f"{', '.join(members)}")
        run.result  # noqa: B018 (raises for an unfinished run)
        if not run.has_models():
            raise RunError(f"{run.directory}: no fold_0/model.pt, so it holds no speaker model; name another run")
        return run

    @classmethod
    def newest(cls, competition: str) -> "Run":
        """Return the competition's run that finished last; raises SettingError when there is none."""
        found = [run for run in cls.every(competition) if run.is_done() and run.has_models() and not run.is_open_set]
        if not found:
            others = {run.competition for run in cls.every() if run.is_done()}
            raise SettingError(f"no finished run of '{competition}'{nearest(competition, others)}; train one: "
                               f"bash run.sh --data {shlex.quote(competition)}")
        return max(found, key=lambda run: (run.result["finished"], run.result_path.stat().st_mtime_ns))

    @property
    def competition(self) -> str:
        """The competition's name."""
        return self.directory.parent.name

    @property
    def run_id(self) -> str:
        """<competition>/<experiment>-<digest8>."""
        return f"{self.competition}/{self.directory.name}"

    @property
    def is_blend(self) -> bool:
        """Whether this is a blend of runs."""
        return self.directory.name.startswith("ensemble-")

    @property
    def is_open_set(self) -> bool:
        """Whether open-set trained this run, which knows fewer speakers than the competition has."""
        return self.directory.name.startswith(OPEN_SET_PREFIX)

    # Its files -------------------------------------------------------------------------------------------------------

    @property
    def experiment_path(self) -> Path:
        """The complete experiment; a blend has none."""
        return self.directory / "experiment.json"

    @property
    def result_path(self) -> Path:
        """The run's figures; the file is there once the run is done."""
        return self.directory / "result.json"

    @property
    def pretraining_path(self) -> Path:
        """The settings of a pretraining; no other run has them."""
        return self.directory / "pretrain.json"

    @property
    def lock_path(self) -> Path:
        """The lock of the process that trains the run."""
        return self.directory / ".lock"

    @property
    def valid_path(self) -> Path:
        """A blend's out-of-fold log-posteriors."""
        return self.directory / "valid.npz"

    @property
    def test_path(self) -> Path:
        """A blend's test log-posteriors."""
        return self.directory / "test.npz"

    @property
    def pseudo_labels_path(self) -> Path:
        """A blend's predictions of the test utterances, as labels for another run."""
        return self.directory / "pseudo_labels.npz"

    @property
    def conditions_path(self) -> Path:
        """The run's accuracy on degraded copies."""
        return self.directory / "conditions.json"

    @property
    def copies_path(self) -> Path:
        """The logits of held-out utterances and of their degraded copies."""
        return self.directory / "conditions.npz"

    @property
    def open_set_path(self) -> Path:
        """The run's threshold for "none of them"."""
        return self.directory / "open_set.json"

    @property
    def folds(self) -> list[RunFold]:
        """The folds that have a folder, by number."""
        return sorted((RunFold(path) for path in self.directory.glob("fold_*")), key=lambda fold: fold.number)

    @property
    def whole(self) -> RunFold:
        """The run's own folder as that of a fold, for what trains once and has no folds."""
        return RunFold(self.directory)

    def fold(self, number: int) -> RunFold:
        """Return the fold of this number, from 0."""
        return RunFold(self.directory / f"fold_{number}")

    # Its state -------------------------------------------------------------------------------------------------------

    def begin(self, experiment: Experiment, run_digest: str, store_digest: str) -> None:
        """Write what the run is before it is trained."""
        write_json(self.experiment_path, to_json(experiment))
        write_json(self.directory / "run.json", {"digest": run_digest, "store": store_digest})

    def is_done(self) -> bool:
        """Return whether every fold has been trained."""
        return self.result_path.exists()

    def has_models(self) -> bool:
        """Return whether the run holds speaker models."""
        return self.fold(0).model_path.exists()

    @cached_property
    def result(self) -> dict[str, Any]:
        """What a finished run says of itself; raises RunError for an unfinished one."""
        if not self.is_done():
            raise RunError(f"{self.directory}: the run is not finished; run its train stage first")
        return read_json(self.result_path)

    @cached_property
    def experiment(self) -> Experiment:
        """The complete experiment that was trained."""
        return from_json(read_json(self.experiment_path))

    @property
    def store_digest(self) -> str | None:
        """The digest of the store that the run reads; None where an older version began it or it reads none."""
        for path in (self.directory / "run.json", self.result_path):
            if path.exists():
                return read_json(path).get("store")
        return None

    def store_dir(self) -> Path:
        """Return the store that the run reads; raises RunError when it is gone."""
        wanted = self.store_digest
        for path, meta in stores(self.competition):
            if meta["digest"] == wanted:
                return path
        named = wanted[:8] if wanted else "of an older version"
        raise RunError(f"{self.directory.name}: its store {named} is gone; the preprocess stage with the run's --data, "
                       "--experiment and --set makes it again")

    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Return store rows (N,) and logits (N, C) of the utterances that each fold held out, none for folds="all"."""
        rows, logits = zip(*[read_logits(fold.valid_path) for fold in self.folds])
        return np.concatenate(rows), np.concatenate(logits)

    # Its blends ------------------------------------------------------------------------------------------------------

    def classified(self) -> dict[str, Any]:
        """Return the result of a run that tells speakers apart; raises SettingError or RunError for any other."""
        result = self.result
        if result.get("metric", "accuracy") != "accuracy":
            raise SettingError(f"{self.directory.name}: its result is a {result['metric']}; only runs that classify "
                               "can be blended and submitted")
        if "store" not in result:
            raise SettingError(f"{self.directory.name}: not a run on a competition's speakers, so it can be neither "
                               "blended nor submitted")
        return result


def blend_of(runs: list[Run], classes: ClassCounts = "auto") -> Run:
    """Return the blend of these runs, made or not, with what is known of the test part's classes.

    Raises RunError for an unfinished run, SettingError for runs that are not about the same utterances.
    """
    results = [run.classified() for run in runs]
    for result in results:
        if "members" in result:
            raise SettingError(f"{result['run_id']} is a blend itself; name its runs: {', '.join(result['members'])}")
    if len({r["table"] for r in results}) != 1:
        raise SettingError("the runs are not about the same utterances, speakers and groups (or an older version made "
                           "some of them); train them again: " + ", ".join(r["run_id"] for r in results))
    return Run(runs[0].directory.with_name(f"ensemble-{blend_digest(results, classes)[:8]}"))


def blend_digest(results: list[dict[str, Any]], classes: ClassCounts) -> str:
    """Return the digest of the blend of runs that say these results of themselves."""
    return digest({"stage": "ensemble", "version": ENSEMBLE_VERSION, "runs": sorted(r["digest"] for r in results),
                   "classes": classes})


def stores(competition: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the whole stores of a competition that preprocess made, with what they say of themselves."""
    for path in sorted(cache_dir(competition).glob("*/meta.json")):
        with contextlib.suppress(OSError, ValueError):
            meta = read_json(path)
            if path.parent.name == f"{meta.get('kind')}-{meta.get('digest', '')[:8]}":
                yield path.parent, meta
