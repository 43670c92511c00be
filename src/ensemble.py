"""Stage 3: the logits of finished runs in, one set of log-posteriors out; reads files, never models.

A run's folds are averaged as log-posteriors. Several runs are blended with weights (and one temperature) that
minimise the out-of-fold cross-entropy; test logits never enter that fit. Where the test predictions tell that every
class has as many utterances, the test log-posteriors are matched to it (prior.py). Writes
data/runs/<competition>/ensemble-<digest8>/ with valid.npz, test.npz, pseudo_labels.npz and result.json.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from src.base.errors import SettingError
from src.base.files import write_json
from src.base.text import timestamp
from src.runs import even_classes as prior
from src.runs.folder import ClassCounts, Run, blend_digest, blend_of
from src.runs.logits import accuracy, log_softmax, read_logits, save_logits
from src.runs.pseudo_labels import save_pseudo_labels
from src.settings.folds import common_folds

CROSS_FIT_PARTS = 5


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


def blend(runs: list[Run], labels: np.ndarray, classes: ClassCounts = "auto") -> Run:
    """Blend finished runs and return the blend; labels (N,) are the store's, -1 where unknown.

    Prints each member's and the blend's out-of-fold accuracy. The blend's is cross-fitted: every utterance is scored
    with weights fitted on the other four fifths.

    classes: "even" when every class has as many test utterances, "any" when nothing is known, "auto" to tell from the
    predictions.
    """
    made = blend_of(runs, classes)
    members = [read_member(run) for run in sorted(runs, key=lambda run: run.directory)]
    fit = _fit(members, labels)
    stacked_test = np.stack([m.test for m in members])
    test, matched = _matched(np.tensordot(fit.weights, stacked_test, 1), classes)
    if matched["num_changed"] is not None:
        print(f"  test: even classes (predicted counts scatter {matched['dispersion']:.2f} of what chance gives); "
              f"{matched['num_changed']} of {len(test)} answers changed to match")
    made.directory.mkdir(parents=True, exist_ok=True)
    save_logits(made.valid_path, fit.rows, fit.scores)
    save_logits(made.test_path, members[0].test_rows, test)
    folds = common_folds({m.result["folds"] for m in members})
    by_fold = [_matched(np.tensordot(fit.weights, np.stack([m.fold_tests[k] for m in members]), 1), classes)[0]
               for k in range(0 if folds == "all" else folds)]
    save_pseudo_labels(made.pseudo_labels_path, members[0].test_rows, by_fold, test)
    write_json(made.result_path, {
        "run_id": made.run_id,
        "digest": blend_digest([m.result for m in members], classes),
        "store": members[0].result["store"],
        "table": members[0].result["table"],
        "members": {m.run_id: round(float(w), 6) for m, w in zip(members, fit.weights)},
        "valid": fit.accuracy,
        "num_valid": len(fit.rows),
        "folds": folds,
        "test_classes": matched,
        "params": sum(m.result["params"] for m in members),
        "seconds": sum(m.result["seconds"] for m in members),
        "finished": timestamp(),
    })
    return made


@dataclass(frozen=True, eq=False)
class Fit:
    """A blend's weights, and what it says of the utterances that all of its runs held out.

    weights: (M,) of the runs. rows: (N,) of the store, none where no run held anything out. scores: (N, C)
    log-posteriors. accuracy: cross-fitted over them; None where a run held nothing out.
    """

    weights: np.ndarray
    rows: np.ndarray
    scores: np.ndarray
    accuracy: float | None


def _fit(members: list[Member], labels: np.ndarray) -> Fit:
    """Return the blend of members on the utterances that they held out, and print the accuracies."""
    fitted = [m for m in members if len(m.valid_rows)]
    weights = np.full(len(members), 1.0 / len(members))
    if not fitted:
        return Fit(weights, np.empty(0, int), np.empty((0, members[0].test.shape[1]), np.float32), None)
    rows, stacked = _common(fitted)
    truth = labels[rows]
    for member, scores in zip(fitted, stacked):
        print(f"  {member.run_id}: out-of-fold accuracy {accuracy(scores, truth):.4f} of {len(truth)}")
    share, how = np.ones(1), ""
    if len(fitted) > 1:
        share, how = fit_weights(stacked, truth), " (cross-fitted)"
        weights = _spread(members, fitted, share)
    blended = np.tensordot(share, stacked, 1)
    if len(fitted) < len(members):  # its accuracy would be that of other weights on fewer runs
        print(f"  blend of {len(members)}: no out-of-fold accuracy, {len(members) - len(fitted)} of them held "
              "nothing out")
        return Fit(weights, rows, blended, None)
    right = cross_fitted_accuracy(stacked, truth) if how else accuracy(blended, truth)
    print(f"  blend of {len(members)}: out-of-fold accuracy {right:.4f}{how}")
    return Fit(weights, rows, blended, right)


def _matched(scores: np.ndarray, classes: ClassCounts) -> tuple[np.ndarray, dict[str, Any]]:
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


def fit_weights(stacked: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return non-negative weights (M,) of log-posteriors (M, N, C) that minimise the cross-entropy of labels (N,).

    The weights need not sum to one: their sum is an inverse temperature. A small pull towards equal weights decides
    what the data leaves open.
    """
    from scipy.optimize import minimize

    members, count = len(stacked), len(labels)
    rows = np.arange(count)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = log_softmax(np.tensordot(weights, stacked, 1))
        residual = np.exp(mixed)
        residual[rows, labels] -= 1
        gradient = np.einsum("mnc,nc->m", stacked, residual) / count
        pull = weights - weights.mean()
        return -mixed[rows, labels].mean() + 0.01 * (pull**2).sum(), gradient + 0.02 * pull

    start = np.full(members, 1.0 / members)
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * members).x


def cross_fitted_accuracy(stacked: np.ndarray, labels: np.ndarray) -> float:
    """Return the blend's accuracy with each fifth of the utterances weighted by a fit on the other four."""
    part = np.random.default_rng(0).permutation(len(labels)) % CROSS_FIT_PARTS
    hits = 0
    for k in range(CROSS_FIT_PARTS):
        weights = fit_weights(stacked[:, part != k], labels[part != k])
        hits += (np.tensordot(weights, stacked[:, part == k], 1).argmax(1) == labels[part == k]).sum()
    return float(hits / len(labels))


def _spread(members: list[Member], fitted: list[Member], share: np.ndarray) -> np.ndarray:
    """Return one weight a member: the fitted ones', and their mean for members without out-of-fold logits."""
    by_id = {member.run_id: weight for member, weight in zip(fitted, share)}
    return np.array([by_id.get(member.run_id, share.mean()) for member in members])


def _common(members: list[Member]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that every member predicted out of fold, and the scores there (M, N, C)."""
    rows = members[0].valid_rows
    for member in members[1:]:
        rows = np.intersect1d(rows, member.valid_rows)
    if not len(rows):
        raise SettingError("the runs share no out-of-fold utterance; blend runs with the same folds")
    return rows, np.stack([m.valid[np.searchsorted(m.valid_rows, rows)] for m in members])
