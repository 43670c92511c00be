"""Which crop is the i-th of a training run: a pure function of (seed, fold, epoch, i).

Neither a resume nor another number of processes changes what is seen, because no state is kept.
"""

import numpy as np


class CropSampler:
    """An endless sequence of (row, start) drawn epoch by epoch; each epoch is a permutation of the rows.

    rows: (N,) store rows of the training part. num_frames: (N,) their lengths. crop_frames: length of a crop.
    balanced: instead of permuting utterances, every class comes equally often (its utterances shuffled and cycled).
    """

    def __init__(self, rows: np.ndarray, num_frames: np.ndarray, labels: np.ndarray, *, crop_frames: int,
                 seed: int, fold: int, balanced: bool = False) -> None:
        self.rows, self.labels = rows, labels
        self.slack = np.maximum(num_frames - crop_frames, 0)
        self.key = (seed, fold)
        self.balanced = balanced
        self._epoch = (-1, np.empty(0, int), np.empty(0, int))

    def take(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (count,) and start frames (count,) of the samples first … first + count - 1 of the run."""
        rows, starts = [], []
        while count > 0:
            epoch, position = divmod(first, len(self.rows))
            order, offsets = self._draw(epoch)
            chosen = order[position : position + count]
            rows.append(self.rows[chosen])
            starts.append(offsets[position : position + len(chosen)])
            first += len(chosen)
            count -= len(chosen)
        return np.concatenate(rows), np.concatenate(starts)

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if self._epoch[0] != epoch:
            rng = np.random.default_rng([*self.key, epoch])
            order = self._balanced_order(rng) if self.balanced else rng.permutation(len(self.rows))
            starts = (rng.random(len(order)) * (self.slack[order] + 1)).astype(np.int64)
            self._epoch = (epoch, order, starts)
        return self._epoch[1:]

    def _balanced_order(self, rng: np.random.Generator) -> np.ndarray:
        """Return N indices in which class counts differ by at most one."""
        members = [rng.permutation(np.flatnonzero(self.labels == label)) for label in np.unique(self.labels)]
        rounds = -(-len(self.rows) // len(members))
        table = np.stack([np.resize(indices, rounds) for indices in members], axis=1)  # (rounds, classes)
        return rng.permuted(table, axis=1).reshape(-1)[: len(self.rows)]
