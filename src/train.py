"""Stage 2: a store and a plan in; per fold a fitted model, its out-of-fold and its test logits out.

Writes data/runs/<competition>/<experiment>-<digest8>/ with one folder a fold (log.csv, model.pt, valid.npz, test.npz,
result.json) and result.json when all folds are done. What is finished is never done again; what was stopped goes on.
"""

from typing import Any

from src.base import distributed
from src.ledger.record import do_once, write_row
from src.runs.plan import Plan
from src.settings.config import Experiment


def train_and_record(plan: Plan, *, parent: Experiment | None = None, command: str = "", stage: str = "train",
                     report: Any = None) -> dict[str, Any]:
    """Return a plan's result, trained now or before, with its row in the ledger once.

    parent: what the experiment is a change of, not yet adapted. report: see src.training.run.run.
    """
    def work() -> dict[str, Any]:
        from src.store.store import Store
        from src.training.run import run

        return run(plan, Store.open(plan.store_dir), report)

    def write(result: dict[str, Any]) -> None:
        if distributed.is_main():
            write_row(plan, result, parent, command, stage)

    return do_once(plan, work, write, is_done=plan.is_done() and distributed.world_size() == 1)
