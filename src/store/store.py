"""Read a store's frames: crops for training, whole utterances for validation.

Goes in: a store's directory. Comes out: batches of float32 frames or samples with lengths and labels. The frames stay
memory-mapped as one flat array of all utterances, or, after `to(device)`, resident on a device as one tensor; both are
read by the same lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.model.masking import zero_padding
from src.store.batch import Batch
from src.store.table import DTYPES, Table

WHOLE_FRAMES = 16  # batches of whole utterances are padded to a multiple of so many


@dataclass(frozen=True, eq=False)
class Store(Table):
    """A competition's utterances with their frames.

    frames: the memory map (total_frames, dim) or (total_samples,). flat: the same as a tensor, on the device that
    batches come from.
    """

    frames: np.ndarray
    flat: Tensor

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open the store in directory `path`; raises RunError when it is absent or torn."""
        table = Table.open(path)
        frames = _map_frames(table)
        return cls(**vars(table), frames=frames, flat=torch.from_numpy(frames))

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy in another process is made from; it maps the frames anew."""
        return {name: value for name, value in vars(self).items() if name not in ("frames", "flat")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        frames = _map_frames(Table.open(state["directory"]))
        vars(self).update(state, frames=frames, flat=torch.from_numpy(frames))

    def to(self, device: str) -> Store:
        """Return the store whose batches come from `device`, itself where they do already.

        "cuda": all frames are copied into the memory of the GPU. "cpu": they stay mapped.
        """
        return self if self.flat.device.type == torch.device(device).type else replace(self, flat=self.flat.to(device))

    def crops(self, rows: Sequence[int], starts: Sequence[int], num_frames: int, repeat: bool = False) -> Batch:
        """Return crops of `num_frames` frames (samples for waveforms), one a row, from `starts`.

        A shorter utterance starts at 0 and is padded with zeros, or, with `repeat`, begins again and again. lengths is
        None when every crop is full; on a GPU, whose batches are all alike, when every utterance would fill one.
        Raises IndexError for a start from which the crop would leave its utterance.
        """
        rows, starts = np.asarray(rows, np.int64), np.asarray(starts, np.int64)
        lengths = np.minimum(self.num_frames[rows], num_frames)
        if len(rows) and ((starts < 0) | (starts + lengths > self.num_frames[rows])).any():
            raise IndexError(f"a crop of {num_frames} frames would leave its utterance")
        if len(rows) and ((lengths < num_frames) & (starts > 0)).any():
            raise IndexError("a crop of an utterance shorter than the crop starts at 0")
        first = self.offsets[rows] + starts
        if self.flat.device.type != "cpu":
            return self._gathered(rows, first, lengths, num_frames, repeat)
        num_windows = len(self.flat) - num_frames + 1
        if num_windows < 1:
            return self._gathered(rows, first, lengths, num_frames, repeat)
        # Every window of the flat array as a row of an overlapping view: one gather of contiguous blocks, 1 M crops/s
        # of 128 x 40 on a CPU core, where a gather frame by frame gives 0.3 M and a loop over slices 0.03 M.
        step = self.dim or 1
        windows = self.flat.as_strided((num_windows, num_frames * step), (step, 1))
        at = torch.from_numpy(np.minimum(first, num_windows - 1)).to(self.flat.device)
        inputs = self._float(windows.index_select(0, at))
        inputs = inputs.view(len(rows), num_frames, self.dim) if self.dim else inputs
        for i in np.flatnonzero(lengths < num_frames):  # what lies behind a short utterance is another one
            inputs[i] = 0
            whole = self._float(self.flat[first[i] : first[i] + lengths[i]])
            for begin in range(0, num_frames if repeat else 1, lengths[i]):
                inputs[i, begin : begin + lengths[i]] = whole[: num_frames - begin]
        return self._batch(rows, inputs, np.full_like(lengths, num_frames) if repeat else lengths)

    def utterances(self, rows: Sequence[int], multiple: int = 1) -> Batch:
        """Return whole utterances, padded with zeros to the longest, and to a multiple of so many frames (samples)."""
        rows = np.asarray(rows, np.int64)
        lengths = self.num_frames[rows]
        return self._padded(rows, self.offsets[rows], lengths, -(-int(lengths.max()) // multiple) * multiple)

    def batches(self, rows: Sequence[int], frame_budget: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield (rows, batch of whole utterances) of each part of `rows` that `parts` makes."""
        for part in self.parts(rows, frame_budget):
            yield part, self.whole(part)

    def parts(self, rows: Sequence[int], frame_budget: int) -> list[np.ndarray]:
        """Return `rows` by the batch, sorted by length, the longest first.

        A batch has at most `frame_budget` frames (samples for waveforms), padding included, or is one utterance. The
        longest come first so that what does not fit a device's memory fails at once.
        """
        rows = np.asarray(rows, np.int64)
        rows = rows[np.argsort(-self.num_frames[rows], kind="stable")]
        parts, first = [], 0
        while first < len(rows):
            padded = -(-int(self.num_frames[rows[first]]) // self._multiple) * self._multiple
            parts.append(rows[first : first + max(1, frame_budget // padded)])
            first += len(parts[-1])
        return parts

    def whole(self, rows: np.ndarray) -> Batch:
        """Return whole utterances, padded with zeros to the longest and frames to a multiple of WHOLE_FRAMES.

        Batches then share their shapes, for each of which a CPU's products are compiled anew, and attention on matrix
        units (AMX) takes two thirds of the time that 223 frames take for 224.
        """
        return self.utterances(rows, self._multiple)

    @property
    def _multiple(self) -> int:
        return 1 if self.kind == "waveform" else WHOLE_FRAMES

    def _padded(self, rows: np.ndarray, first: np.ndarray, lengths: np.ndarray, num_frames: int) -> Batch:
        shape = (len(rows), num_frames, self.dim) if self.dim else (len(rows), num_frames)
        inputs = torch.zeros(shape, device=self.flat.device)
        for i, (begin, length) in enumerate(zip(first.tolist(), lengths.tolist())):
            inputs[i, :length] = self.flat[begin : begin + length]
        return self._batch(rows, inputs.div_(32768) if self.kind == "waveform" else inputs, lengths)

    def _gathered(self, rows: np.ndarray, first: np.ndarray, lengths: np.ndarray, num_frames: int,
                  repeat: bool) -> Batch:
        """Return crops by one gather on the device, which nothing waits for."""
        device = self.flat.device
        numbers = torch.from_numpy(np.stack([first, lengths, self.labels[rows]])).to(device, non_blocking=True)
        place = torch.arange(num_frames, device=device)
        is_padded = not repeat and self.shortest < num_frames
        if repeat:
            place = place % numbers[1][:, None]
        inputs = self._float(self.flat[(numbers[0][:, None] + place).clamp_max(len(self.flat) - 1)])
        if is_padded:
            inputs = zero_padding(inputs, numbers[1])
        return Batch(inputs, numbers[1] if is_padded else None, None if (self.labels[rows] < 0).any() else numbers[2])

    def _float(self, stored: Tensor) -> Tensor:
        return stored.float().div_(32768) if self.kind == "waveform" else stored.float()

    def _batch(self, rows: np.ndarray, inputs: Tensor, lengths: np.ndarray) -> Batch:
        labels, device = self.labels[rows], inputs.device
        full = (lengths == inputs.shape[1]).all()
        return Batch(inputs, None if full else torch.from_numpy(lengths).to(device),
                     None if (labels < 0).any() else torch.from_numpy(labels).to(device))


def _map_frames(table: Table) -> np.ndarray:
    """Return the frames of a whole store as a memory map (total_frames, dim) or (total_samples,)."""
    total = int(table.num_frames.sum())
    shape = (total, table.dim) if table.dim else (total,)
    # "c": private copy on write; nothing writes, but torch warns about an array that it could not write to
    return np.memmap(table.directory / "frames.bin", DTYPES[table.kind], mode="c", shape=shape)
