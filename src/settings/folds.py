"""What the setting `folds` means: k folds, 1 for the first of five, or "all" for one fit that holds nothing out.

Where five cannot be made of the training utterances, 1 is the first of as many as can be, but of two at least.
"""

from collections.abc import Callable
from typing import Literal

Folds = int | Literal["all"]
PARTS_OF_ONE = 5  # folds=1 is the first of so many


def num_parts(folds: int, can_deal: Callable[[int], bool] = lambda number: True) -> int:
    """Return into how many parts the training utterances are split, each of which one fold holds out.

    can_deal: tells whether so many parts can be made of them. Only folds=1 asks; where none can be made, it returns
    PARTS_OF_ONE, so that the error that follows is about five.
    """
    if folds != 1:
        return folds
    return next((number for number in range(PARTS_OF_ONE, 1, -1) if can_deal(number)), PARTS_OF_ONE)


def num_fits(folds: Folds) -> int:
    """Return how many models a run with such folds fits."""
    return 1 if folds == "all" else folds


def holds_out_as(folds: Folds, other: Folds) -> bool:
    """Return whether each fold of a run with `folds` holds out what the same fold of a run with `other` does."""
    return folds == other or (folds, other) == (1, PARTS_OF_ONE)


def common_folds(several: set[Folds]) -> Folds:
    """Return the folds that runs with these settings have in common, "all" for none."""
    if len(several) == 1:
        return next(iter(several))
    return 1 if several == {1, PARTS_OF_ONE} else "all"
