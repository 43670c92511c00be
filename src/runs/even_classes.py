"""How many test utterances each class has: estimated, and matched where they were dealt out evenly.

A competition often holds as many test utterances of one speaker as of another, while a model under another session
gives too many to some speakers and too few to others. Whether the classes are even is not assumed: predicted counts
of classes that chance has filled scatter like a Poisson's, errors scatter them more, a random share p of an even corpus
1 - p of that, and only an even deal makes them scatter much less. Where they do, and the utterances can be dealt out
at all, log-posteriors are matched to equal shares, which uses no label.
"""

from typing import NamedTuple

import numpy as np

from src.runs.logits import log_softmax

SIGNIFICANCE = 1e-3  # chance that classes filled at random are taken for even
LARGEST_DISPERSION = 0.4  # under the 0.5 of a random half of an even corpus: a test part is seldom more
MANY, NUM_DRAWS = 10, 20_000
MAX_PASSES = 500
TOLERANCE = 1e-3  # largest relative error of a class's share


class Prior(NamedTuple):
    """What the test predictions say of the classes' counts."""

    dispersion: float  # variance of the predicted counts over their mean: 1 by chance, 0 when all are equal
    is_even: bool


def estimate(scores: np.ndarray) -> Prior:
    """Return what the predictions (argmax) of scores (N, C) say of the classes' counts.

    Even: N is a multiple of C, and the index of dispersion (C - 1) variance / mean lies in the lower tail of its
    chi-squared distribution with C - 1 degrees of freedom, which it follows for classes of equal chance (Fisher, 1925),
    and is below what random halves of an even corpus have (hypergeometric counts).
    """
    num_rows, num_classes = scores.shape
    if num_classes < 2 or not num_rows:
        return Prior(float("nan"), False)
    counts = np.bincount(scores.argmax(1), minlength=num_classes)
    dispersion = counts.var(ddof=1) / counts.mean()
    is_rare = _chance(dispersion, num_rows, num_classes) < SIGNIFICANCE
    return Prior(float(dispersion), bool(is_rare and dispersion < LARGEST_DISPERSION and num_rows % num_classes == 0))


def _chance(dispersion: float, num_rows: int, num_classes: int) -> float:
    """Return the chance of so small a dispersion or a smaller one in classes filled at random.

    Of few classes, whose counts are equal too often for the approximation, it is counted in random draws.
    """
    from scipy.stats import chi2

    if num_classes >= MANY:
        return chi2.cdf((num_classes - 1) * dispersion, num_classes - 1)
    counts = np.random.default_rng(0).multinomial(num_rows, [1 / num_classes] * num_classes, size=NUM_DRAWS)
    return float((counts.var(1, ddof=1) / counts.mean(1) <= dispersion * (1 + 1e-9)).mean())


def match_even(scores: np.ndarray) -> np.ndarray:
    """Return log-posteriors (N, C), of scores (N, C), whose mean over the rows is 1 / C in every class.

    Each class gets one bias, by turns of normalising columns and rows (Sinkhorn & Knopp, 1967), which is the smallest
    change in the sense of Kullback and Leibler that has these shares.
    """
    matched = log_softmax(scores.astype(np.float64))
    wanted = np.log(len(matched) / matched.shape[1])
    for _ in range(MAX_PASSES):
        excess = np.logaddexp.reduce(matched, 0) - wanted
        if np.abs(excess).max() < TOLERANCE:
            break
        matched = log_softmax(matched - excess)
    return matched.astype(np.float32)
