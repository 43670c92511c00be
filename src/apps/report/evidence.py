"""What is known of a run: its files, its store, the ledger's rows, what its models predicted for unseen utterances.

In: a run's folder (experiment.json, result.json, and each fold's log.csv, valid.npz and result.json), its store, the
ledger, and conditions.json where `conditions` has left one. Out: Evidence, for the report.
"""

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.apps.report import metrics
from src.base.errors import InputError, SettingError
from src.base.files import read_json
from src.ledger import file as ledger
from src.runs.folder import OPEN_SET_PREFIX
from src.runs.logits import read_logits
from src.runs.store_guess import find_store_of
from src.settings.config import Experiment, from_json
from src.store.table import Table

NO_HELD_OUT = "folds=all: every utterance was trained on and none held out. Train the same with folds=5, or folds=1."
UNFINISHED = "No fold is finished yet. Run the same command again: it goes on from where it stopped."


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a run's models predicted for the utterances that they had not seen, one row an utterance (N,).

    rows: of the store. fold: whose model. confidence: the posterior of what was predicted, as trained; scaled: after
    temperature scaling, cross-fitted.
    """

    rows: np.ndarray
    fold: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    scaled: np.ndarray
    temperature: float

    @property
    def is_right(self) -> np.ndarray:
        """Whether each prediction is the label, (N,)."""
        return self.labels == self.predicted

    @functools.cached_property
    def pairs(self) -> list[metrics.ConfusedPair]:
        """The pairs of classes that were confused, the most often confused first."""
        return metrics.confused_pairs(self.labels, self.predicted)


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that is known of a run.

    result: None for an unfinished run. logs: the columns of each fold's log.csv, by fold. held_out: None where there is
    none. store: None where it is gone. rows: the ledger's of this competition; row: the run's own, None without one.
    """

    directory: Path
    experiment: Experiment
    result: dict[str, Any] | None
    logs: dict[int, dict[str, np.ndarray]]
    fold_results: dict[int, dict[str, Any]]
    store: Table | None
    held_out: HeldOut | None
    conditions: dict[str, Any] | None
    rows: list[dict[str, str]]
    row: dict[str, str] | None

    @property
    def competition(self) -> str:
        """The competition's name."""
        return self.directory.parent.name

    @property
    def run_id(self) -> str:
        """<competition>/<experiment>-<digest8>."""
        return f"{self.competition}/{self.directory.name}"

    @property
    def missing(self) -> str:
        """Why there is nothing to say about held-out utterances, and what to do; "" where there is."""
        if self.held_out is not None:
            return ""
        if self.experiment.folds == "all":
            return NO_HELD_OUT
        if not self.fold_results:
            return UNFINISHED
        return "The store that the run was made from is not here, nor are its labels: run the preprocess stage again."

    def figures(self) -> metrics.ClassFigures:
        """Return precision, recall, F1 and support of every class; there must be held-out utterances."""
        return metrics.class_figures(self.held_out.labels, self.held_out.predicted, len(self.store.speakers))


def gather(directory: Path) -> Evidence:
    """Read all that is known of the run in `directory`.

    Raises SettingError for a blend and for what another stage than train has made, InputError for torn files.
    """
    result = read_json(directory / "result.json") if (directory / "result.json").exists() else None
    if not (directory / "experiment.json").exists():
        members = ", ".join((result or {}).get("members", {}))
        said = f"a blend; report its runs: {members}" if members else "no run of the train stage: no experiment.json"
        raise SettingError(f"report {directory.name}: {said}")
    if directory.name.startswith(OPEN_SET_PREFIX):
        raise SettingError(f"report {directory.name}: a run without some of the speakers, which `open-set` trained for "
                           "its figures; report the run that it measures")
    experiment = from_json(read_json(directory / "experiment.json"))
    folds = {int(path.name[5:]): path for path in directory.glob("fold_*")}
    fold_results = {k: read_json(folds[k] / "result.json") for k in sorted(folds)
                    if (folds[k] / "result.json").exists()}
    if (directory / "pretrain.json").exists() or any("num_right" not in found for found in fold_results.values()):
        raise SettingError(f"report {directory.name}: not a run of the train stage that tells classes apart; what it "
                           f"measured is in {directory}")
    rows = [row for row in ledger.read() if row["competition"] == directory.parent.name and row["status"] == "ok"]
    own = [row for row in rows if row["run_id"] == f"{directory.parent.name}/{directory.name}"]
    store = _open_store(directory)
    conditions = directory / "conditions.json"
    return Evidence(
        directory=directory, experiment=experiment, result=result, fold_results=fold_results, store=store,
        logs={k: _read_log(folds[k] / "log.csv") for k in sorted(folds) if (folds[k] / "log.csv").exists()},
        held_out=_held_out(store, {k: folds[k] for k in fold_results}) if store else None,
        conditions=read_json(conditions) if conditions.exists() else None, rows=rows, row=own[-1] if own else None)


def _open_store(directory: Path) -> Table | None:
    path = find_store_of(directory)
    return Table.open(path) if path else None


def _read_log(path: Path) -> dict[str, np.ndarray]:
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return {name: np.array([float(cell or "nan") for cell in cells]) for name, cells in zip(header, zip(*rows))}


def _held_out(store: Table, fold_dirs: Mapping[int, Path]) -> HeldOut | None:
    parts = [(k, *read_logits(path / "valid.npz")) for k, path in fold_dirs.items()
             if (path / "valid.npz").exists()]
    parts = [(k, rows, logits) for k, rows, logits in parts if len(rows)]
    if not parts:
        return None
    rows, logits = (np.concatenate([part[at] for part in parts]) for at in (1, 2))
    if rows.max() >= len(store.labels) or logits.shape[1] != len(store.speakers) or not np.isfinite(logits).all():
        raise InputError(f"{next(iter(fold_dirs.values())).parent}: its logits are not of this store, or not finite; "
                         "remove the run's folder and train it again")
    labels = store.labels[rows]
    scaled, temperature = metrics.scaled_confidence(logits, labels)
    return HeldOut(rows, np.concatenate([np.full(len(part[1]), part[0]) for part in parts]), labels, logits.argmax(1),
                   metrics.confidence(logits), scaled, temperature)
