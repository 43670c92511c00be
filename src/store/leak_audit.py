"""Find the recordings that stand in a store more than once, whatever their files are called.

Goes in: a store's rows, frames and file hashes. Comes out: its leaks, see leaks.py. Equal frames meet in a dict, alike
ones by locality-sensitive hashing (Charikar, 2002): signs of random projections of their sketches are a key, and each
utterance is compared with the next few of the same key, in several tables. The time is that of reading 128 frames per
utterance and of sorting the keys, so that it grows with the number of utterances alone.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from src.model.frontend import LogMel
from src.settings.config import Features
from src.store.fingerprint import MOST_LAG, SAMPLES, SEGMENTS, is_same, normalised, sampled, sketch
from src.store.leaks import ALIKE, SAME_BYTES, SAME_SOUND, Leak

TABLES, NEIGHBOURS = 24, 6  # of the hashing: how many keys an utterance has, and how many of a key it is compared with
NEAR = 0.55  # cosine of two sketches, from which on the frames are compared
CHUNK = 256  # utterances whose samples are held at once


class Recordings:
    """The utterances of a store in the making: their frames as log-mels, whichever kind the store holds.

    frames: (total, dim), or (total_samples,) of a waveform. offsets, lengths: (N,) in it. settings: the store's.
    """

    def __init__(self, frames: np.ndarray, offsets: np.ndarray, lengths: np.ndarray, settings: Mapping[str, Any]):
        self.frames, self.offsets, self.lengths, self.kind = frames, offsets, lengths, settings["kind"]
        self.hop, self.log_mel = 1, None
        if self.kind == "waveform":
            self.hop = settings["hop_length"]
            self.log_mel = LogMel(Features(sample_rate=settings["sample_rate"], hop_length=self.hop))

    def stored(self, row: int) -> np.ndarray:
        """Return an utterance as it is stored."""
        return self.frames[self.offsets[row] : self.offsets[row] + self.lengths[row]]

    def log_mels(self, row: int) -> np.ndarray:
        """Return an utterance's log-mels (T, F)."""
        if self.log_mel is None:
            return self.stored(row)
        return torch.cat(list(self.log_mel.blocks(self._waveform(self.stored(row))))).numpy()

    def samples(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return what equal utterances have in common (N, …) and the log-mels that sketches are made of."""
        stored = sampled(self.frames, self.offsets[rows], self.lengths[rows])
        if self.log_mel is None:
            return stored, stored
        width = self.log_mel.n_fft
        lengths = self.lengths[rows]
        places = np.arange(SEGMENTS * SAMPLES) * np.maximum(0, lengths - width)[:, None] // (SEGMENTS * SAMPLES)
        within = np.minimum(np.arange(width), lengths[:, None, None] - 1)
        windows = self._waveform(self.frames[self.offsets[rows, None, None] + places[:, :, None] + within])
        mels = self.log_mel.mel(windows.flatten(0, 1))[..., 0].clamp_min(self.log_mel.log_floor).log()
        return stored, mels.unflatten(0, windows.shape[:2]).numpy()

    @staticmethod
    def _waveform(stored: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(stored.astype(np.float32)).div_(32768)


def find_leaks(rows: Sequence[tuple], hashes: Sequence[str], frames: np.ndarray,
               settings: Mapping[str, Any]) -> list[Leak]:
    """Return the leaks of a store, sorted by recording, each recording called as the first utterance of it.

    rows: of the store's table, (utt_id, split, speaker, group, text, offset, num_frames). hashes: SHA-256 of each
    row's file, "" for what is no file of its own. frames: as frames.bin holds them. settings: the store's.
    """
    offsets, lengths = (np.array([row[i] for row in rows], np.int64) for i in (5, 6))
    recordings = Recordings(frames, offsets, lengths, settings)
    equal, sketches = _read(recordings)
    parent = np.arange(len(rows))
    how: dict[int, str] = {}
    for pairs, relation in ((equal, SAME_SOUND), (_alike(recordings, sketches), ALIKE)):
        for i, j in pairs:
            same_bytes = relation == SAME_SOUND and hashes[i] and hashes[i] == hashes[j]
            for row in (i, j):
                how[row] = SAME_BYTES if same_bytes else how.get(row, relation)
            roots = sorted((_root(parent, i), _root(parent, j)))
            parent[roots[1]] = roots[0]
    found = sorted((_root(parent, row), row) for row in how)
    return [Leak(rows[root][0], rows[row][0], rows[row][1], rows[row][2], how[row]) for root, row in found]


def _root(parent: np.ndarray, row: int) -> int:
    while parent[row] != row:
        row = int(parent[row])
    return row


def _read(recordings: Recordings) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Return pairs of rows with equal frames, each with the first of its kind, and all sketches (N, D).

    What never changes, such as digital silence, is no recording. Of equal rows only the first keeps its sketch.
    """
    first_of: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    equal, sketches = [], []
    with_sketch = recordings.kind != "cepstra"
    for begin in range(0, len(recordings.lengths), CHUNK):
        stored, log_mels = recordings.samples(slice(begin, begin + CHUNK))
        part = sketch(log_mels) if with_sketch else np.zeros((len(stored), 1), np.float32)
        for i, samples in enumerate(stored):
            row, own = begin + i, recordings.stored(begin + i)
            twins = first_of[int(recordings.lengths[row]), samples.tobytes()]
            twin = next((other for other in twins if np.array_equal(recordings.stored(other), own)), None)
            if twin is None:
                twins.append(row)
            elif (own != own[0]).any():
                equal.append((twin, row))
                part[i] = 0
        sketches.append(part)
    return equal, np.concatenate(sketches)


def _alike(recordings: Recordings, sketches: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of rows, the smaller first, that are surely the same recording."""
    return [(i, j) for i, j in near_pairs(sketches, recordings.lengths // recordings.hop)
            if is_same(recordings.log_mels(i), recordings.log_mels(j))]


def near_pairs(sketches: np.ndarray, num_frames: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of rows whose sketches (N, D) are near and whose durations nearly equal.

    In each of TABLES tables, a row is compared with the next NEIGHBOURS rows of its key, by duration.
    """
    rows = np.flatnonzero(sketches.any(1))
    if len(rows) < 2:
        return []
    centred = normalised(sketches[rows] - sketches[rows].mean(0))
    num_bits = max(1, int(np.log2(len(rows))) - 1)
    rng, found = np.random.default_rng(0), []
    for _ in range(TABLES):
        signs = centred @ rng.standard_normal((centred.shape[1], num_bits)).astype(np.float32) > 0
        keys = signs @ (1 << np.arange(num_bits))
        order = np.lexsort((num_frames[rows], keys))
        for step in range(1, min(NEIGHBOURS, len(rows) - 1) + 1):
            i, j = order[:-step], order[step:]
            near = (keys[i] == keys[j]) & (np.abs(num_frames[rows[i]] - num_frames[rows[j]]) <= MOST_LAG)
            found.append(np.sort(np.stack([i[near], j[near]], 1), axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    cosines = np.einsum("nd,nd->n", centred[pairs[:, 0]], centred[pairs[:, 1]])
    return [(int(rows[i]), int(rows[j])) for i, j in pairs[cosines > NEAR]]
