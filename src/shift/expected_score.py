"""The score to expect on the test part, with an interval, before anything is submitted; no test label is known.

Go in: the validation that decides, out-of-fold logits of held-out utterances in its conditions, and what each fold's
model says of the test part. Comes out: an ExpectedScore.

    verdict = examine(store)
    match = match_stores(store, degraded, verdict.separation, MIXTURE) if verdict.is_shifted else None
    validation = deciding_validation(verdict, match)
    print(expected_score(validation, logits, labels, num_test, fold_tests))

On a clean test part, a fold's model is expected to be as good as on clean held-out utterances. On a shifted one there
are two estimates: as good as on the matched copies, and as often right as it is as sure as it was of that many answers
to the copies (average thresholded confidence, Garg et al., 2022). Their mean is expected, and half of their difference
is one more standard error; where the copies are still told from the test part, the confidence alone is believed. What
the average of the folds' models is better by is added (`fold_gain`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from src.runs.calibration import fit_temperature
from src.runs.logits import log_softmax
from src.shift.validation import Validation

Z = 1.959964  # 95 %
GAIN_ERROR = 0.4  # standard error of the folds' gain, as a part of it
FALL_ERROR = 0.5  # how much further accuracy may have fallen than confidence tells, as a part of that fall
BASIS = {"clean": "by clean held-out utterances",
         "matched": "by held-out utterances degraded to match the test part",
         "both": "by held-out utterances, clean and degraded alike"}


@dataclass(frozen=True)
class ExpectedScore:
    """The accuracy to expect on the test part, and its 95 % interval.

    is_bound: whether validation flatters, so that `high` is an upper bound, and `low`, 0 where no test logits were
    given, is as good as the confidence of the answers. held_out: accuracy of a fold's model by the validation that
    decides. gain: what the average of the folds is expected to be better by. name: the validation's.
    """

    score: float
    low: float
    high: float
    is_bound: bool
    held_out: float
    gain: float
    name: Literal["clean", "matched", "both"]

    @property
    def covers(self) -> str:
        """Return what the interval covers and what it does not."""
        said = "the chance of which utterances were held out and which are in the test part"
        if self.name != "clean":
            said += ", and of the shares of the conditions"
        if self.gain:
            said += f", and the error of the {self.gain:.4f} that averaging the folds adds"
        return f"{said}; not a shift that neither features nor confidence show"

    def __str__(self) -> str:
        said = f"expected on the test part: {self.score:.4f} (95 % interval {self.low:.4f} to {self.high:.4f})"
        if not self.is_bound:
            return f"{said}, {BASIS[self.name]}"
        if not self.low:
            return f"expected on the test part: at most {self.high:.4f}, {BASIS[self.name]}, which flatter"
        return f"{said}, by how sure the answers are; {BASIS[self.name]}, which flatter, {self.held_out:.4f}"


def expected_score(validation: Validation, logits: Mapping[str, np.ndarray], labels: np.ndarray, num_test: int,
                   fold_tests: Sequence[np.ndarray] = (), groups: Sequence[str] = ()) -> ExpectedScore:
    """Return the score to expect on `num_test` test utterances.

    logits: out-of-fold (N, C) for each of the validation's conditions. labels: (N,). fold_tests: test logits (M, C) of
    each fold's model, whose average is submitted. groups: (N,) sessions of the held-out utterances, "" for none, which
    make the interval wider.
    """
    stacked = [logits[name] for name in validation.conditions]
    is_right = np.stack([scores.argmax(1) == labels for scores in stacked])
    gain = fold_gain(fold_tests, _temperature(validation, stacked, labels)) if len(fold_tests) > 1 else 0.0
    variance = (GAIN_ERROR * gain) ** 2
    if validation.match is not None:
        variance += float(np.var(validation.match.share_draws @ is_right.mean(1)))
    num_held_out = effective_count(validation.weights @ is_right, groups)

    held_out = validation.accuracy(is_right)
    estimate, fall = held_out, 0.0
    if len(fold_tests) and (validation.match is not None or validation.is_bound):
        matched = float(validation.shares @ is_right.mean(1))
        sure = float(np.mean([thresholded_confidence(stacked, is_right, validation.shares, scores)
                              for scores in fold_tests]))
        estimate, fall = sure, max(0.0, matched - sure)
        if not validation.is_bound:
            estimate = (matched + sure) / 2
            variance += ((matched - sure) / 2) ** 2

    def interval(share: float) -> tuple[float, float]:
        return prediction_interval(min(1.0, max(0.0, share + gain)), num_held_out, num_test, variance)

    low, high = interval(estimate)
    if validation.is_bound:
        low = interval(estimate - FALL_ERROR * fall)[0] if len(fold_tests) else 0.0
        high = max(high, interval(held_out)[1])
    score = min(1.0, estimate + gain)
    return ExpectedScore(score, low, high, validation.is_bound, held_out, gain, validation.name)


def fold_gain(fold_tests: Sequence[np.ndarray], temperature: float) -> float:
    """Return by how much the average of the folds' log-posteriors is expected to be right more often than one fold's.

    fold_tests: logits (M, C) of each fold's model. Where a fold's answer differs from the average's, the other folds
    say how likely each is: the mean difference of their calibrated posteriors of the two is the gain.
    """
    rows = np.arange(len(fold_tests[0]))
    total = sum(log_softmax(scores) for scores in fold_tests)
    answers, gain = total.argmax(1), 0.0
    for scores in fold_tests:
        own = log_softmax(scores)
        others = np.exp(log_softmax((total - own) / (len(fold_tests) - 1) / temperature))
        gain += float((others[rows, answers] - others[rows, own.argmax(1)]).mean()) / len(fold_tests)
    return max(0.0, gain)


def thresholded_confidence(stacked: Sequence[np.ndarray], is_right: np.ndarray, shares: np.ndarray,
                           test: np.ndarray) -> float:
    """Return the share of test logits (M, C) that are as sure as the surest held-out copies, as many as are right.

    stacked: logits (N, C) of held-out copies in K conditions, which weigh `shares` (K,). is_right: (K, N).
    """
    confidence = np.concatenate([log_softmax(scores).max(1) for scores in stacked])
    order = np.argsort(confidence, kind="stable")
    weights = np.repeat(shares / is_right.shape[1], is_right.shape[1])[order]
    num_below = np.cumsum(weights) - weights
    share_wrong = 1 - float(shares @ is_right.mean(1))
    place = min(int(np.searchsorted(num_below, share_wrong - 1e-9)), len(order) - 1)
    return float((log_softmax(test).max(1) >= confidence[order[place]]).mean())


def effective_count(scores: np.ndarray, groups: Sequence[str] = ()) -> float:
    """Return how many independent utterances tell as much as the mean of `scores` (N,), each from 0 to 1.

    groups: (N,) sessions, "" for none. Utterances of a session are right or wrong together, which makes them fewer;
    the mean over copies of an utterance varies less than one copy, which makes them more, at most four times as many.
    """
    named = [group or f"\0{i}" for i, group in enumerate(groups)] if len(groups) else np.arange(len(scores))
    unit = np.unique(np.array(named), return_inverse=True)[1]
    num_units, mean = int(unit.max()) + 1, float(scores.mean())
    variance = np.square(np.bincount(unit, scores - mean)).sum() / len(scores) ** 2
    spread = mean * (1 - mean)
    return min(spread / variance, 4.0 * num_units) if spread > 1e-9 and variance > 1e-12 else float(num_units)


def prediction_interval(share: float, num_held_out: float, num_test: int, variance: float = 0.0) -> tuple[float, float]:
    """Return the 95 % interval of the share of `num_test` new utterances that are right, where `share` was measured.

    Wilson's (1927), for as many utterances as have the variance of both samples and `variance` of other causes.
    """
    smooth = (share * num_held_out + 2) / (num_held_out + 4)
    count = 1 / (1 / num_held_out + 1 / num_test + variance / (smooth * (1 - smooth)))
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    margin = Z / (1 + Z**2 / count) * np.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    return max(0.0, float(centre - margin)), min(1.0, float(centre + margin))


def _temperature(validation: Validation, stacked: Sequence[np.ndarray], labels: np.ndarray) -> float:
    """Return the temperature of held-out utterances, each in one condition drawn by weight."""
    drawn = np.random.default_rng(0).choice(len(stacked), len(labels), p=validation.weights)
    return fit_temperature(np.stack([stacked[k][i] for i, k in enumerate(drawn)]), labels)
