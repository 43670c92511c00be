"""What an utterance sounds like in a few numbers: the statistics by which adversarial validation tells parts apart."""

from collections.abc import Callable

import numpy as np
import torch

from src.model.frontend import LogMel
from src.settings.config import Features
from src.store.store import Store

QUIET, LOUD = 0.05, 0.95  # quantiles over an utterance's frames: its background, and its voice


def utterance_statistics(store: Store, rows: np.ndarray) -> np.ndarray:
    """Return float32 (N, 4 D): mean, deviation, quiet and loud frames of each of D bands for N rows of a store.

    Waveforms become log-mels first, one utterance at a time. Lengths are left out on purpose: a test part of shorter
    utterances is no other session.
    """
    frames_of = _reader(store)
    statistics = [_statistics(frames_of(row)) for row in np.asarray(rows).tolist()]
    return np.array(statistics, np.float32).reshape(len(statistics), -1)


def _statistics(frames: np.ndarray) -> np.ndarray:
    """Return (4 D,) float32 of frames (T, D)."""
    frames = frames.astype(np.float32)
    quiet, loud = np.quantile(frames, (QUIET, LOUD), axis=0)
    return np.concatenate([frames.mean(0), frames.std(0), quiet, loud])


def _reader(store: Store) -> Callable[[int], np.ndarray]:
    """Return a function from a row to its frames (T, D)."""

    def stored(row: int) -> np.ndarray:
        first = store.offsets[row]
        return store.frames[first : first + store.num_frames[row]]

    if store.kind != "waveform":
        return stored
    settings = {key: value for key, value in store.settings.items() if key != "kind"}
    log_mel = LogMel(Features(store=store.kind, **settings))

    def computed(row: int) -> np.ndarray:
        waveform = torch.from_numpy(stored(row).astype(np.float32) / 32768)
        return np.concatenate([block.numpy() for block in log_mel.blocks(waveform)])

    return computed
