"""Train a plan and write its row: what every run goes through, whoever asked for it: stream, ladder or search."""

import contextlib
from typing import Any

from src import distributed, ledger
from src.config import Experiment, override
from src.errors import DivergedError, SettingError
from src.files import read_json
from src.ledger_row import make_row
from src.plan import Plan, make_plan


def train_and_record(plan: Plan, *, parent: Experiment | None = None, command: str = "", stage: str = "train",
                     report: Any = None) -> dict[str, Any]:
    """Return a plan's result, trained now or before, with its row in the ledger once.

    parent: what the experiment is a change of, not yet adapted. report: see src.train.run. A run that diverges leaves a
    row too, and its error is raised on; a full disk or a stop says nothing of an experiment.
    """
    distributed.start(plan.experiment.train.device)
    if distributed.world_size() == 1 and plan.is_done():
        result = read_json(plan.directory / "result.json")
    else:
        from src.store import Store
        from src.train import run

        try:
            result = run(plan, Store.open(plan.store_dir), report)
        except DivergedError as error:
            if distributed.is_main():
                write_row(plan, {"status": "failed", "note": str(error)}, parent, command, stage)
            raise
    if distributed.is_main() and not ledger.contains(plan.digest, result["finished"]):
        write_row(plan, result, parent, command, stage)
    return result


def write_row(plan: Plan, result: dict[str, Any], parent: Experiment | None, command: str, stage: str) -> None:
    """Append the row of a run that ended."""
    adapted = None
    if parent:
        if parent.train.pseudo_labels:  # whose name may fit several runs by now: what else differs is what was asked
            parent = override(parent, {"train.pseudo_labels": plan.experiment.train.pseudo_labels})
        with contextlib.suppress(SettingError):  # a parent that cannot be run here
            adapted = make_plan(plan.competition, plan.store_dir, parent).experiment
    ledger.append(make_row(plan.experiment, competition=plan.competition, run_id=plan.run_id, digest=plan.digest,
                           result=result, parent=adapted, stage=stage, command=command))
