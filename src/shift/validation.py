"""Which validation decides, and with what weight per held-out copy: what blends are fitted on and rounds picked by."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from src.shift.adversarial import Verdict
from src.shift.matching import CLEAN, Match


@dataclass(frozen=True, eq=False)
class Validation:
    """Which held-out copies decide, and how much each condition of them weighs.

    name: "clean", "matched" (degraded to match the test part) or "both" (alike). conditions: "clean" first. weights:
    (K,), whose sum is 1. is_bound: whether the test part differs in a way that no copies show, so that validation
    flatters. match: None where no copies decide. reason: one line, as `str` gives.
    """

    name: Literal["clean", "matched", "both"]
    conditions: tuple[str, ...]
    weights: np.ndarray
    is_bound: bool
    match: Match | None
    reason: str

    @property
    def shares(self) -> np.ndarray:
        """Return the shares (K,) of the conditions that are nearest to the test part."""
        return self.weights if self.match is None else self.match.shares

    def per_copy(self, num_valid: int) -> np.ndarray:
        """Return the weight of each copy of `num_valid` held-out utterances, (K, num_valid), whose sum is 1."""
        return np.repeat(self.weights[:, None] / num_valid, num_valid, axis=1)

    def accuracy(self, is_right: np.ndarray) -> float:
        """Return the weighted share of held-out copies (K, N) that are right."""
        return float(self.weights @ is_right.mean(1))

    def __str__(self) -> str:
        return self.reason


def deciding_validation(verdict: Verdict, match: Match | None = None) -> Validation:
    """Return which held-out copies decide: clean ones, matched ones, or, where no copies match, both alike.

    match: None where the verdict is "clean", and where no copies could be made.
    """
    if not verdict.is_shifted:
        return Validation("clean", (CLEAN,), np.ones(1), verdict.is_told_apart, None, str(verdict))
    if match is None:
        return Validation("clean", (CLEAN,), np.ones(1), True, None,
                          f"{verdict}; there are none, so that clean ones do, and flatter")
    if match.is_close:
        return Validation("matched", match.conditions, match.shares, False, match, f"{verdict}; {match}")
    is_clean = np.array([name == CLEAN for name in match.conditions])
    return Validation("both", match.conditions, (is_clean + match.shares) / 2, True, match,
                      f"{verdict}; {match}, so that clean and degraded ones weigh alike")
