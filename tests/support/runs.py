"""Finished runs written by hand, with logits whose skill is known."""

import numpy as np

from src.base.files import write_json
from src.runs.folder import Run

CLASSES = 4


def write_run(root, name, folds, test, *, table="t", shift=0.0):
    """Write a finished run's files: folds is a list of (rows, logits), test a list of logits a fold."""
    run_dir = root / f"{name}-00000000"
    for k, ((rows, logits), test_logits) in enumerate(zip(folds, test)):
        (run_dir / f"fold_{k}").mkdir(parents=True)
        np.savez(run_dir / f"fold_{k}" / "valid.npz", rows=np.array(rows, int), logits=np.float32(logits))
        np.savez(run_dir / f"fold_{k}" / "test.npz", rows=np.arange(900, 900 + len(test_logits)),
                 logits=np.float32(test_logits) + np.float32(shift))
    write_json(run_dir / "result.json", {"run_id": f"c/{name}-00000000", "digest": name, "store": "s", "table": table,
                                         "params": 10, "seconds": 1.0,
                                         "folds": len(folds) if len(folds[0][0]) else "all"})
    return Run(run_dir)


def noisy_logits(labels, skill, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(labels), CLASSES))
    logits[np.arange(len(labels)), labels] += skill
    return logits


def two_folds(labels, skill, seed):
    logits = noisy_logits(labels, skill, seed)
    odd, even = np.arange(1, 400, 2), np.arange(0, 400, 2)
    return [(odd, logits[odd]), (even, logits[even])], logits
