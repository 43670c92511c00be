"""What the setting `folds` means: k folds, 1 for the first of five, or "all" for one fit that holds nothing out."""

from typing import Literal

Folds = int | Literal["all"]
PARTS_OF_ONE = 5  # folds=1 is the first of so many


def num_parts(folds: int) -> int:
    """Return into how many parts the training utterances are split, each of which one fold holds out."""
    return PARTS_OF_ONE if folds == 1 else folds


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
