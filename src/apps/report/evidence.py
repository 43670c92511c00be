"""What is known of a run: its files, its store, the ledger's rows, what its models predicted for unseen utterances.

In: a run's folder (experiment.json, result.json, and each fold's log.csv, valid.npz and result.json), its store, the
ledger, and conditions.json where `conditions` has left one. Out: Evidence, for the report.
"""

import contextlib
import csv
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.apps.report import metrics
from src.base.errors import InputError, RunError, SettingError
from src.base.files import read_json
from src.ledger import file as ledger
from src.runs.folder import Run, RunFold
from src.runs.logits import read_logits
from src.settings.config import Experiment
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

    run: Run
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
        return self.run.competition

    @property
    def run_id(self) -> str:
        """<competition>/<experiment>-<digest8>."""
        return self.run.run_id

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


def gather(run: Run) -> Evidence:
    """Read all that is known of a run.

    Raises SettingError for a blend and for what another stage than train has made, InputError for torn files.
    """
    name = run.directory.name
    if run.is_blend and run.is_done():
        raise SettingError(f"report {name}: a blend; report its runs: {', '.join(run.result['members'])}")
    if not run.experiment_path.exists():
        raise SettingError(f"report {name}: no run of the train stage: no {run.experiment_path.name}")
    if run.is_open_set:
        raise SettingError(f"report {name}: a run without some of the speakers, which `open-set` trained for its "
                           "figures; report the run that it measures")
    fold_results = {fold.number: fold.result() for fold in run.folds if fold.is_done()}
    if run.pretraining_path.exists() or any("num_right" not in found for found in fold_results.values()):
        raise SettingError(f"report {name}: not a run of the train stage that tells classes apart; what it measured is "
                           f"in {run.directory}")
    rows = [row for row in ledger.read() if row["competition"] == run.competition and row["status"] == "ok"]
    own = [row for row in rows if row["run_id"] == run.run_id]
    store = _open_store(run)
    done = [fold for fold in run.folds if fold.is_done()]
    return Evidence(
        run=run, experiment=run.experiment, result=run.result if run.is_done() else None, fold_results=fold_results,
        store=store, logs={fold.number: _read_log(fold.log_path) for fold in run.folds if fold.log_path.exists()},
        held_out=_held_out(store, done) if store else None,
        conditions=read_json(run.conditions_path) if run.conditions_path.exists() else None, rows=rows,
        row=own[-1] if own else None)


def _open_store(run: Run) -> Table | None:
    with contextlib.suppress(RunError):
        return Table.open(run.store_dir())
    return None


def _read_log(path: Path) -> dict[str, np.ndarray]:
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return {name: np.array([float(cell or "nan") for cell in cells]) for name, cells in zip(header, zip(*rows))}


def _held_out(store: Table, folds: list[RunFold]) -> HeldOut | None:
    parts = [(fold.number, *read_logits(fold.valid_path)) for fold in folds if fold.valid_path.exists()]
    parts = [(k, rows, logits) for k, rows, logits in parts if len(rows)]
    if not parts:
        return None
    rows, logits = (np.concatenate([part[at] for part in parts]) for at in (1, 2))
    if rows.max() >= len(store.labels) or logits.shape[1] != len(store.speakers) or not np.isfinite(logits).all():
        raise InputError(f"{folds[0].directory.parent}: its logits are not of this store, or not finite; "
                         "remove the run's folder and train it again")
    labels = store.labels[rows]
    scaled, temperature = metrics.scaled_confidence(logits, labels)
    return HeldOut(rows, np.concatenate([np.full(len(part[1]), part[0]) for part in parts]), labels, logits.argmax(1),
                   metrics.confidence(logits), scaled, temperature)
