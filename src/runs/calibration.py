"""From a run's out-of-fold logits to probabilities that mean what they say, and to the threshold of "none of them".

Goes in: logits or log-posteriors of utterances that no model was trained on, of known speakers with their labels and of
unknown ones. Comes out: one temperature, and both error rates of a threshold. Used by predict, export and open-set.
"""

from dataclasses import dataclass

import numpy as np

from src.runs.logits import cross_entropy, log_softmax

COLDEST, HOTTEST = 0.05, 20.0


@dataclass(frozen=True)
class Threshold:
    """Who scores below `value` is none of the known speakers, and how often that is wrong.

    known_refused: share of the known speakers' utterances below it. unknown_accepted: share of the unknown speakers'
    utterances at or above it.
    """

    value: float
    known_refused: float
    unknown_accepted: float

    @property
    def equal_error_rate(self) -> float:
        """Return the mean of both error rates, which at the threshold of `equal_error` are as equal as they can be."""
        return (self.known_refused + self.unknown_accepted) / 2


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the T from 0.05 to 20 at which softmax(scores / T) has the least cross-entropy (Guo et al., 2017).

    scores: (N, C) logits or log-posteriors of held-out utterances. labels: (N,). No order of speakers changes by it.
    Where every utterance is right the cross-entropy falls without end as T does, so that T stays at 1 or above.
    """
    from scipy.optimize import minimize_scalar

    coldest = 1.0 if (scores.argmax(1) == labels).all() else COLDEST
    found = minimize_scalar(lambda log_t: cross_entropy(scores / np.exp(log_t), labels), method="bounded",
                            bounds=(np.log(coldest), np.log(HOTTEST)), options={"xatol": 1e-5})
    return float(np.exp(found.x))


def average_folds(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return calibrated log-probabilities (N, C) of K folds' logits (K, N, C), averaged as log-posteriors."""
    posteriors = np.stack([log_softmax(fold) for fold in logits])
    return log_softmax(posteriors.mean(0) / temperature)


def energy(logits: np.ndarray) -> np.ndarray:
    """Return the log of the sum of exponentials of logits (…, C): high where a speaker is known (Liu et al., 2020).

    It is their negative energy, so that larger is surer, as it is with probabilities.
    """
    largest = logits.max(-1, keepdims=True).astype(np.float64)
    return (largest + np.log(np.exp(logits - largest).sum(-1, keepdims=True)))[..., 0]


def error_rates(known: np.ndarray, unknown: np.ndarray, value: float) -> Threshold:
    """Return both error rates of the threshold `value` on scores of known (N,) and unknown (M,) speakers."""
    return Threshold(float(value), float((known < value).mean()), float((unknown >= value).mean()))


def equal_error(known: np.ndarray, unknown: np.ndarray) -> Threshold:
    """Return the threshold at which both error rates are nearest to each other.

    It lies midway between two scores; of several, the one with the smallest sum of errors, the lowest of those.
    """
    scores = np.unique(np.concatenate([known, unknown]))
    between = np.concatenate([scores[:1], (scores[1:] + scores[:-1]) / 2])
    refused = np.searchsorted(np.sort(known), between) / len(known)
    accepted = 1 - np.searchsorted(np.sort(unknown), between) / len(unknown)
    best = np.lexsort([refused + accepted, np.abs(refused - accepted).round(12)])[0]
    return error_rates(known, unknown, between[best])
