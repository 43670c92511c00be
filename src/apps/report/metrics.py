"""Figures of held-out predictions: per class, confusions, intervals, calibration.

In: labels and what a run predicted for them, as arrays. Out: what a report shows.
Nothing here reads a file.
"""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from src.runs.calibration import fit_temperature

NUM_BINS = 15  # of confidence, as Guo et al. (2017)
BLOCK = 8192  # rows that are normalised at once: the logits of 5,000 classes fill the memory once, not twice


@dataclass(frozen=True, eq=False)
class ClassFigures:
    """Precision, recall, F1 (C,) and support (C,), the utterances of each class; NaN where its support is 0."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray

    def mean(self, weighted: bool) -> tuple[float, float, float]:
        """Return mean precision, recall and F1 over the classes with support, each alike or `weighted` by it."""
        heard = self.support > 0
        weights = self.support[heard] if weighted else None
        return tuple(float(np.average(values[heard], weights=weights))
                     for values in (self.precision, self.recall, self.f1))

    def worst_first(self) -> np.ndarray:
        """Return all classes (C,), lowest F1 first, of equal ones the larger first; those without support last."""
        return np.lexsort((-self.support, np.nan_to_num(self.recall, nan=2.0), np.nan_to_num(self.f1, nan=2.0)))


class ConfusedPair(NamedTuple):
    """Two classes that were taken for one another: `a` for `b`, and `b` for `a`; the first is the more often wrong."""

    a: int
    b: int
    a_for_b: int
    b_for_a: int


def confidence(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the posterior (N,) of the class that each of logits (N, C) is largest for."""
    found = np.empty(len(logits))
    for first in range(0, len(logits), BLOCK):
        block = logits[first : first + BLOCK].astype(np.float64)
        found[first : first + BLOCK] = 1 / np.exp((block - block.max(1, keepdims=True)) / temperature).sum(1)
    return found


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predictions by confidence: count, mean confidence and accuracy of each bin (bins,), NaN for an empty one.

    ece: the expected calibration error (Naeini et al., 2015; Guo et al., 2017), the mean of |accuracy - confidence|
    over the predictions, by bins of equal width.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def class_figures(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> ClassFigures:
    """Return the figures of every class as scikit-learn's classification report has them.

    A class that was never predicted has precision 0. One without utterances has no figures and is in no mean.
    """
    *figures, support = precision_recall_fscore_support(labels, predicted, labels=np.arange(num_classes),
                                                        zero_division=0)
    return ClassFigures(*(np.where(support > 0, values, np.nan) for values in figures), support)


def interval(num_right: int, num_total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share by Wilson's score (1927); (0, 1) for none."""
    if not num_total:
        return 0.0, 1.0
    found = binomtest(int(num_right), int(num_total)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def confused_pairs(labels: np.ndarray, predicted: np.ndarray) -> list[ConfusedPair]:
    """Return every pair of classes that were confused, the most often confused first."""
    wrong = labels != predicted
    counts = Counter(zip(labels[wrong].tolist(), predicted[wrong].tolist()))
    pairs = [ConfusedPair(a, b, count, counts[b, a]) for (a, b), count in counts.items()
             if (count, b) > (counts[b, a], a)]
    return sorted(pairs, key=lambda pair: (-pair.a_for_b - pair.b_for_a, -pair.a_for_b, pair.a, pair.b))


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return how often each of `classes` (row) was taken for each (column), (C, C)."""
    return confusion_matrix(labels, predicted, labels=classes)


def confusion_order(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the classes that were ever confused, in an order that puts them side by side.

    By the reverse Cuthill-McKee ordering (Cuthill & McKee, 1969; George, 1971) of the graph whose edges are confusions.
    """
    wrong = labels != predicted
    pairs = np.concatenate([labels[wrong], predicted[wrong]]), np.concatenate([predicted[wrong], labels[wrong]])
    graph = coo_array((np.ones(len(pairs[0])), pairs), (num_classes, num_classes)).tocsr()
    order = reverse_cuthill_mckee(graph, symmetric_mode=True)
    return order[np.diff(graph.indptr)[order] > 0]


def confusion_picture(labels: np.ndarray, predicted: np.ndarray, order: np.ndarray, max_size: int) -> np.ndarray:
    """Return the confusions among the classes of `order` (S, S), S at most `max_size`, as shares of each row.

    Where there are more classes than `max_size`, neighbours share a row. A row without utterances is NaN.
    """
    size = min(len(order), max_size)
    place = np.full(1 + max(labels.max(), predicted.max(), order.max()), -1)
    place[order] = np.arange(len(order)) * size // len(order)
    rows, columns = place[labels], place[predicted]
    counts = np.zeros((size, size))
    np.add.at(counts, (rows[(rows >= 0) & (columns >= 0)], columns[(rows >= 0) & (columns >= 0)]), 1)
    total = counts.sum(1, keepdims=True)
    return np.divide(counts, total, where=total > 0, out=np.full_like(counts, np.nan))


def reliability(confidences: np.ndarray, is_right: np.ndarray, num_bins: int = NUM_BINS) -> Reliability:
    """Return how often predictions (N,) of each confidence, in (0, 1], were right."""
    at = np.clip(np.ceil(confidences * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    count = np.bincount(at, minlength=num_bins)
    shares = [np.divide(np.bincount(at, values, num_bins), count, where=count > 0, out=np.full(num_bins, np.nan))
              for values in (confidences, is_right)]
    gap = np.abs(shares[0] - shares[1])[count > 0]
    return Reliability(count, *shares, float((gap * count[count > 0]).sum() / max(1, count.sum())))


def scaled_confidence(logits: np.ndarray, labels: np.ndarray, max_fitted: int = 4000) -> tuple[np.ndarray, float]:
    """Return confidences (N,) after temperature scaling, and the temperature of all logits (N, C).

    Cross-fitted: each half of the utterances is scaled by what was fitted on the other, so that the calibration shown
    is that of utterances the temperature was not fitted on. max_fitted: utterances of a fit, enough for one number.
    """
    shuffled = np.random.default_rng(0).permutation(len(logits))
    halves = shuffled[: len(logits) // 2], shuffled[len(logits) // 2 :]
    found = np.empty(len(logits))
    for half, other in (halves, halves[::-1]):
        fitted = other[:max_fitted]
        found[half] = confidence(logits[half], fit_temperature(logits[fitted], labels[fitted]) if len(fitted) else 1.0)
    fitted = shuffled[:max_fitted]
    return found, fit_temperature(logits[fitted], labels[fitted])


def length_bins(lengths: np.ndarray, num_bins: int = 8, min_count: int = 10) -> list[np.ndarray]:
    """Return the indices of utterances in at most `num_bins` bins of about equal number, shortest first.

    Utterances of equal length (N,) share a bin; a bin has at least `min_count` where there are as many.
    """
    num_bins = max(1, min(num_bins, len(lengths) // min_count))
    edges = np.unique(np.quantile(lengths, np.arange(1, num_bins) / num_bins))
    at = np.searchsorted(edges, lengths, side="left")
    bins = []
    for k in np.unique(at):
        chosen = np.flatnonzero(at == k)
        if bins and min(len(chosen), len(bins[-1])) < min_count:
            bins[-1] = np.sort(np.concatenate([bins[-1], chosen]))
        else:
            bins.append(chosen)
    return bins
