"""Train a plan and write its row: what every run goes through, whoever asked for it: stream, ladder or search."""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from src.base.errors import DivergedError, SettingError
from src.ledger import file as ledger
from src.ledger.row import make_row
from src.ledger.score import score_cells
from src.runs.folder import Run
from src.runs.plan import Plan, make_plan
from src.settings.config import Experiment, override


class Planned(Protocol):
    """A run before it is done, whatever it trains."""

    @property
    def digest(self) -> str:
        """The digest of all that decides the result."""

    @property
    def run(self) -> Run:
        """The run on disk."""


def do_once(plan: Planned, work: Callable[[], dict[str, Any]], write: Callable[[dict[str, Any]], None],
            is_done: bool) -> dict[str, Any]:
    """Return a run's result, by `work` unless it is done, with its row in the ledger once, by `write`.

    A run that diverges leaves a row too, and its error is raised on; a full disk or a stop says nothing of it.
    """
    if is_done:
        result = plan.run.result
    else:
        try:
            result = work()
        except DivergedError as error:
            write({"status": "failed", "note": str(error)})
            raise
    if not ledger.contains(plan.digest, result["finished"]):
        write(result)
    return result


def write_row(plan: Plan, result: dict[str, Any], parent: Experiment | None, command: str, stage: str) -> None:
    """Append the row of a run that ended, with its scores where a solution is there; a search's trials have none."""
    adapted = None
    if parent:
        if parent.train.pseudo_labels:  # whose name may fit several runs by now: what else differs is what was asked
            parent = override(parent, {"train.pseudo_labels": plan.experiment.train.pseudo_labels})
        with contextlib.suppress(SettingError):  # a parent that cannot be run here
            adapted = make_plan(plan.competition, plan.store_dir, parent).experiment
    if stage != "tune" and plan.is_done():
        result = {**result, **score_cells(plan.run)}
    ledger.record(make_row(plan.experiment, competition=plan.competition, run_id=plan.run_id, digest=plan.digest,
                           result=result, parent=adapted, stage=stage, command=command))
