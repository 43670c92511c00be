"""What a finished run predicts: log-posteriors out of fold and on the test part, and the answers of its submission.

A run's folds are averaged as log-posteriors. Where the test predictions tell that every class has as many utterances,
they are matched to it (even_classes.py). The ensemble stage blends these log-posteriors, and the ledger scores the
answers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from src.base.errors import RunError
from src.base.tables import read_csv
from src.runs import even_classes as prior
from src.runs.folder import ClassCounts, Run, blend_of
from src.runs.logits import log_softmax, read_logits


@dataclass(frozen=True, eq=False)
class Member:
    """A finished run's log-posteriors: rows (N,) of the store with scores (N, C), out-of-fold and test."""

    run_id: str
    result: dict[str, Any]
    valid_rows: np.ndarray
    valid: np.ndarray
    test_rows: np.ndarray
    test: np.ndarray
    fold_tests: list[np.ndarray]  # of each fold that was held out


def matched_to_even(scores: np.ndarray, classes: ClassCounts) -> tuple[np.ndarray, dict[str, Any]]:
    """Return test scores (N, C), matched where the classes are even, and what was found and done."""
    told = prior.estimate(scores)
    if classes == "any" or (classes == "auto" and not told.is_even):
        return scores, {"dispersion": told.dispersion, "num_changed": None}
    matched = prior.match_even(scores)
    return matched, {"dispersion": told.dispersion,
                     "num_changed": int((matched.argmax(1) != scores.argmax(1)).sum())}


def read_member(run: Run) -> Member:
    """Return a run's log-posteriors: out-of-fold rows joined over folds, test averaged over folds."""
    result = run.classified()
    valid_rows, valid, test, test_rows = [], [], [], None
    for fold in run.folds:
        rows, scores = read_logits(fold.valid_path)
        valid_rows.append(rows)
        valid.append(log_softmax(scores))
        test_rows, scores = read_logits(fold.test_path)
        test.append(log_softmax(scores))
    rows = np.concatenate(valid_rows)
    order = np.argsort(rows, kind="stable")
    return Member(result["run_id"], result, rows[order], np.concatenate(valid)[order], test_rows,
                  np.mean(test, axis=0), test if len(rows) else [])


def read_answers(run: Run) -> dict[str, str]:
    """Return {utt_id: speaker} of the test part as a submission of a finished run or blend has it; none without one.

    A run that was not blended yet is taken as its blend with itself alone would be. Raises RunError for an unfinished
    run and one whose store is gone, SettingError for one that tells no speakers apart.
    """
    result = run.classified()
    blend = run if "members" in result else blend_of([run])
    if blend.is_done():
        rows, scores = read_logits(blend.test_path)
    else:
        member = read_member(run)
        rows, scores = member.test_rows, matched_to_even(member.test, "auto")[0].astype(np.float32)
    store_dir, speakers = run.store_dir(), run.speakers()
    utt_ids = [row["utt_id"] for row in read_csv(store_dir / "table.csv", ("utt_id",)).values()]
    if scores.shape != (len(rows), len(speakers)) or rows.max(initial=0) >= len(utt_ids):
        raise RunError(f"{run.directory}: its predictions are not of the store {store_dir}; remove the run's folder "
                       "and train it again")
    return {utt_ids[row]: speakers[answer] for row, answer in zip(rows.tolist(), scores.argmax(1).tolist())}
