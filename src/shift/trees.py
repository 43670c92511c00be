"""The classifier that all of this room asks: small gradient-boosted trees, the same whatever the number of threads."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier


def trees(num_rounds: int = 30, learning_rate: float = 0.2) -> "HistGradientBoostingClassifier":
    """Return unfitted trees of eight leaves, each split chosen among three tenths of the statistics.

    Trees of 16 leaves in 150 rounds tell no set further apart than by 0.01 of AUC, in five times the time.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        learning_rate=learning_rate, max_iter=num_rounds, max_leaf_nodes=8, min_samples_leaf=10, max_bins=31,
        max_features=0.3, early_stopping=False, random_state=0)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread within the block, for sums of gradients depend on how many share them."""
    import sklearn.ensemble  # noqa: F401  loads the libraries whose threads are limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield
