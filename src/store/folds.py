"""How the training utterances are split into folds."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence

import numpy as np

from src.base.errors import SettingError
from src.settings.folds import Folds, num_parts

FOLD_SEED = 0  # never an experiment's seed: every run of a competition shares its folds


def split(rows: np.ndarray, labels: np.ndarray, groups: Sequence[str],
          folds: Folds) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (train_rows, valid_rows) of each fold: k of them, one for 1, and ("all") all rows and none.

    Classes are spread evenly over k folds, groups never split; settings/folds.py says of how many 1 is the first. A
    fixed seed makes them the same for every experiment. Where a fold would be tested on a class that its training part
    does not hold (a class of a single utterance, or within a single group), those utterances go back to the training
    part and are validated in no fold.

    Args: rows (N,) of a store, the training utterances; labels (N,) int64, their classes; groups, N names, "" for an
    utterance that is a group of its own. Raises SettingError when there are too few utterances or groups.
    """
    if folds == "all":
        return [(rows, rows[:0])]
    if folds < 1:
        raise SettingError(f"folds={folds}: use a whole number above 0, or 'all'")
    number = num_parts(folds, lambda number: can_deal(labels, groups, number))
    fold = deal(rows, labels, groups, number, f"folds={folds}")
    parts = [(rows[fold != k], rows[fold == k]) for k in range(number)]
    return parts[:1] if folds == 1 else parts


def can_deal(labels: np.ndarray, groups: Sequence[str], num_folds: int) -> bool:
    """Return whether `num_folds` folds, each of which validates something, can be made of training utterances.

    labels: (N,), each utterance's class. groups: N names, "" for a group of its own.
    """
    try:
        deal(np.arange(len(labels)), labels, groups, num_folds, "folds")
    except SettingError:
        return False
    return True


def deal(rows: np.ndarray, labels: np.ndarray, groups: Sequence[str], num_folds: int, setting: str) -> np.ndarray:
    """Return each utterance's fold (N,) int64, -1 for one that no fold can validate; see `split`.

    setting: what an error says it is about.
    """
    has_groups = any(groups)
    groups = np.unique([group or f"\0{row}" for group, row in zip(groups, rows)], return_inverse=True)[1]
    if groups.max() + 1 < num_folds:
        raise SettingError(f"{setting}: {num_folds} folds need as many groups of training utterances; there "
                           f"are {groups.max() + 1}. Use fewer folds, or folds=all")
    fold = grouped_folds(labels, groups, num_folds) if has_groups else stratified_folds(labels, num_folds)
    for k in range(num_folds):
        unheard = (fold == k) & ~np.isin(labels, labels[fold != k])
        fold[np.isin(groups, groups[unheard])] = -1
    empty = [k for k in range(num_folds) if not (fold == k).any()]
    if empty:
        raise SettingError(f"{setting}: fold {empty[0]} would validate nothing, for most classes have too few "
                           "utterances or groups; use fewer folds, or folds=all")
    return fold


def stratified_folds(labels: np.ndarray, num_folds: int) -> np.ndarray:
    """Return each utterance's fold: every class, shuffled, dealt out in turn from where the last ended."""
    shuffled = np.random.default_rng(FOLD_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    fold[by_class] = np.arange(len(labels)) % num_folds
    return fold


def grouped_folds(labels: np.ndarray, groups: np.ndarray, num_folds: int) -> np.ndarray:
    """Return each utterance's fold, every group whole, classes as even as the groups allow."""
    splitter = _stratified_group_k_fold()(num_folds, shuffle=True, random_state=FOLD_SEED)
    fold = np.empty(len(labels), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes of fewer utterances than folds: `folds` has a rule for them
        try:
            for k, (_, valid) in enumerate(splitter.split(labels, labels, groups)):
                fold[valid] = k
        except ValueError as error:
            raise SettingError(f"folds={num_folds}: {error}; use fewer folds, or folds=all") from error
    return fold


@functools.cache
def _stratified_group_k_fold() -> type:
    from sklearn.model_selection import StratifiedGroupKFold  # takes 2.5 s to import

    return StratifiedGroupKFold
