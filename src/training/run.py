"""Train every fold of a plan that is not done yet, and summarise the run."""

from typing import Any

import numpy as np
import torch

from src.base import distributed
from src.base.errors import SettingError
from src.base.files import write_json
from src.base.text import timestamp
from src.runs.plan import Plan
from src.runs.pseudo_labels import check_pseudo_labels
from src.store.store import Store
from src.training import workers as fold_workers
from src.training.collectives import broadcast, main_lock, start
from src.training.fold import Report, train_fold


def run(plan: Plan, store: Store, report: Report | None = None) -> dict[str, Any]:
    """Train every fold of a plan that is not done yet and return the run's result.

    report is called after each validation and may raise to stop the run (a pruned search trial). Two processes with
    the same plan never mix: the second waits. Raises RunError for a loss that is not finite.
    """
    start(plan.experiment.train.device)
    waiting = f"{plan.run_id}: another process is training it; waiting"
    with main_lock(plan.run.lock_path, waiting):
        if broadcast(plan.is_done()):
            return broadcast(plan.run.result if distributed.is_main() else None)
        if plan.experiment.train.pseudo_labels:
            check_pseudo_labels(plan.pseudo_labels, store.table_digest, plan.experiment.folds)
        if plan.experiment.train.device == "cuda" and not torch.cuda.is_available():
            raise SettingError("train.device=cuda: no GPU is seen here; leave it at auto, which takes what is there")
        num_folds = len(store.folds(plan.experiment.folds))
        if distributed.is_main():
            plan.run.begin(plan.experiment, plan.digest, store.digest)
        folds = [plan.run.fold(number) for number in range(num_folds)]
        todo = [fold.number for fold in folds if not broadcast(fold.is_done())]
        train, count = plan.experiment.train, 1
        if train.device == "cpu" and distributed.world_size() == 1 and not report:
            count = fold_workers.num_at_once(train.threads, len(todo))
        if count > 1:
            fold_workers.run(train_fold, plan, store, todo, count)
        else:
            for fold in todo:
                train_fold(plan, store, fold, report=report)
        result = None
        if distributed.is_main():
            result = _summarise(plan, store, [fold.result() for fold in folds])
            write_json(plan.run.result_path, result)
        return broadcast(result)


def _summarise(plan: Plan, store: Store, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the run's result; its validation accuracy counts every held-out utterance once."""
    num_valid = sum(r["num_valid"] for r in results)
    return {
        "run_id": plan.run_id,
        "digest": plan.digest,
        "store": store.digest,
        "table": store.table_digest,
        "num_classes": len(store.speakers),
        "params": results[0]["params"],
        "steps": plan.experiment.train.steps,
        "folds": plan.experiment.folds,
        "seeds": plan.experiment.seed,
        "device": plan.experiment.train.device,
        "train": float(np.mean([r["train"] for r in results])),
        "valid": sum(r["num_right"] for r in results) / num_valid if num_valid else None,
        "best_steps": [r["best_step"] for r in results],
        "seconds": sum(r["seconds"] for r in results),
        "finished": timestamp(),
    }
