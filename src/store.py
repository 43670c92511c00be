"""Read a store that preprocess made: crops for training, whole utterances for validation, and folds.

Goes in: a store's directory. Comes out: batches of float32 frames or samples with lengths and labels. The frames stay
memory-mapped as one flat array of all utterances, or, after `to(device)`, resident on a device as one tensor; both are
read by the same lines. table.csv has a row an utterance in the competition's order, training first.
"""

from __future__ import annotations

import csv
import functools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from src.batch import Batch
from src.errors import RunError, SettingError
from src.files import digest, read_json
from src.masking import zero_padding

DTYPES = {"logmel": np.float16, "cepstra": np.float32, "waveform": np.int16}
WHOLE_FRAMES = 16  # batches of whole utterances are padded to a multiple of so many
FOLD_SEED = 0  # never an experiment's seed: every run of a competition shares its folds


@dataclass(frozen=True, eq=False)
class Store:
    """A competition's utterances, one row each.

    kind: "logmel" or "cepstra" (frames of `dim` values) or "waveform" (samples, dim 0). labels: (rows,) int64 index
    into speakers, -1 for test. offsets, num_frames: (rows,) int64 place and length in `frames`, samples for waveforms.
    train_rows, test_rows: int64 rows of each split, test in the order of the submission. frames: the memory map
    (total_frames, dim) or (total_samples,). flat: the same as a tensor, on the device that batches come from.
    """

    directory: Path
    digest: str
    kind: str
    dim: int
    speakers: tuple[str, ...]
    settings: dict[str, Any]
    utt_ids: list[str]
    labels: np.ndarray
    groups: list[str]
    texts: list[str]
    train_rows: np.ndarray
    test_rows: np.ndarray
    offsets: np.ndarray
    num_frames: np.ndarray
    frames: np.ndarray
    flat: Tensor

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open the store in directory `path`; raises RunError when it is absent or torn."""
        path = Path(path)
        try:
            meta = read_json(path / "meta.json")
            with open(path / "table.csv", encoding="utf-8", newline="") as file:
                header, *table = csv.reader(file)
            columns = dict(zip(header, map(list, zip(*table))))
            kind, dim, speakers = meta["kind"], meta["dim"] or 0, tuple(meta["speakers"])
            store_digest, settings = meta["digest"], meta["settings"]
            total, index = meta["num_frames"], {speaker: i for i, speaker in enumerate(meta["speakers"])}
            is_train = np.array([split == "train" for split in columns["split"]])
            labels = np.array([index[s] if t else -1 for s, t in zip(columns["speaker"], is_train)], np.int64)
            offsets, num_frames = (np.array(columns[name], np.int64) for name in ("offset", "num_frames"))
            shape = (total, dim) if dim else (total,)
            size = (path / "frames.bin").stat().st_size
            if size != np.prod(shape) * np.dtype(DTYPES[kind]).itemsize or num_frames.sum() != total:
                raise ValueError(f"frames.bin has {size:,} bytes")
            # "c": private copy on write; nothing writes, but torch warns about an array that it could not write to
            frames = np.memmap(path / "frames.bin", DTYPES[kind], mode="c", shape=shape)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}: not a whole store ({type(error).__name__}: {error}); remove this folder and run "
                           "preprocess again") from error
        return cls(path, store_digest, kind, dim, speakers, settings, columns["utt_id"], labels, columns["group"],
                   columns["text"], np.flatnonzero(is_train), np.flatnonzero(~is_train), offsets, num_frames, frames,
                   torch.from_numpy(frames))

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy in another process is made from; it maps the frames anew."""
        return {name: value for name, value in vars(self).items() if name not in ("frames", "flat")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        frames = Store.open(state["directory"]).frames
        vars(self).update(state, frames=frames, flat=torch.from_numpy(frames))

    @functools.cached_property
    def shortest(self) -> int:
        """Return the length of the shortest utterance in frames (samples for waveforms)."""
        return int(self.num_frames.min(initial=np.iinfo(np.int64).max))

    @functools.cached_property
    def table(self) -> str:
        """Return the digest of rows, labels and groups: where they changed, old logits and folds mean other things."""
        return digest([self.utt_ids, self.speakers, self.labels.tolist(), self.groups])

    @property
    def hop_length(self) -> int:
        """Return the samples between two frames that a model makes of a stored waveform."""
        return self.settings["hop_length"]

    def to(self, device: str) -> Store:
        """Return the store with all of its frames held in the memory of `device` ("cpu" or "cuda")."""
        return replace(self, flat=self.flat.to(device, copy=True))

    def labelled(self, rows: np.ndarray, labels: np.ndarray) -> Store:
        """Return the store with `labels` (M,) given to `rows` (M,)."""
        whole = self.labels.copy()
        whole[rows] = labels
        return replace(self, labels=whole)

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

    def folds(self, folds: int | Literal["all"]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (train_rows, valid_rows) of each fold: k of them, one for 1, and ("all") all rows and none.

        Classes are spread evenly over k folds, groups never split; 1 is the first fold of five, or of as many as can be
        made. A fixed seed makes them the same for every experiment. Where a fold would be tested on a class that its
        training part does not hold (a class of a single utterance, or within a single group), those utterances go back
        to the training part and are validated in no fold. Raises SettingError when there are too few utterances or
        groups.
        """
        if folds == "all":
            return [(self.train_rows, self.train_rows[:0])]
        if folds < 1:
            raise SettingError(f"folds={folds}: use a whole number above 0, or 'all'")
        labels, groups = self.labels[self.train_rows], [self.groups[row] for row in self.train_rows]
        num_folds = folds
        if folds == 1:
            num_folds = next((number for number in (5, 4, 3, 2) if can_deal(labels, groups, number)), 5)
        fold = _dealt(labels, groups, num_folds, f"folds={folds}")
        parts = [(self.train_rows[fold != k], self.train_rows[fold == k]) for k in range(num_folds)]
        return parts[:1] if folds == 1 else parts

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


def can_deal(labels: np.ndarray, groups: Sequence[str], num_folds: int) -> bool:
    """Return whether `num_folds` folds, each of which validates something, can be made of training utterances.

    labels: (N,), each utterance's class. groups: N names, "" for a group of its own.
    """
    try:
        _dealt(labels, groups, num_folds, "folds")
    except SettingError:
        return False
    return True


def _dealt(labels: np.ndarray, groups: Sequence[str], num_folds: int, setting: str) -> np.ndarray:
    """Return each utterance's fold (N,) int64, -1 for one that no fold can validate; see Store.folds."""
    is_grouped = any(groups)
    groups = np.unique([group or f"\0{i}" for i, group in enumerate(groups)], return_inverse=True)[1]
    if groups.max() + 1 < num_folds:
        raise SettingError(f"{setting}: {num_folds} folds need as many groups of training utterances; there "
                           f"are {groups.max() + 1}. Use fewer folds, or folds=all")
    fold = _grouped_folds(labels, groups, num_folds) if is_grouped else _stratified_folds(labels, num_folds)
    for k in range(num_folds):
        unheard = (fold == k) & ~np.isin(labels, labels[fold != k])
        fold[np.isin(groups, groups[unheard])] = -1
    empty = [k for k in range(num_folds) if not (fold == k).any()]
    if empty:
        raise SettingError(f"{setting}: fold {empty[0]} would validate nothing, for most classes have too few "
                           "utterances or groups; use fewer folds, or folds=all")
    return fold


def _stratified_folds(labels: np.ndarray, num_folds: int) -> np.ndarray:
    """Return each utterance's fold: every class, shuffled, dealt out in turn from where the last ended."""
    shuffled = np.random.default_rng(FOLD_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    fold[by_class] = np.arange(len(labels)) % num_folds
    return fold


def _grouped_folds(labels: np.ndarray, groups: np.ndarray, num_folds: int) -> np.ndarray:
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
