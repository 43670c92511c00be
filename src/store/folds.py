"""How the training utterances are split into folds."""

from __future__ import annotations

import functools
import warnings

import numpy as np

from src.base.errors import SettingError

FOLD_SEED = 0  # never an experiment's seed: every run of a competition shares its folds


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
