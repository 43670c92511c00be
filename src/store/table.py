"""What a store says of its utterances, without their frames: ids, labels, groups, texts, lengths, and the folds.

Goes in: a store's directory (table.csv and meta.json, as `build.py` writes them). Comes out: a Table, which is all that
blending, submitting and reporting need; it imports no torch. table.csv has one row per utterance in the competition's
order, training first.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from src.base.errors import RunError
from src.base.files import digest, read_json
from src.settings.folds import Folds
from src.store.folds import split
from src.store.leaks import joined_groups, names_of_recordings, read_leaks

DTYPES = {"logmel": np.float16, "cepstra": np.float32, "waveform": np.int16}


@dataclass(frozen=True, eq=False)
class Table:
    """A competition's utterances, one row each.

    kind: "logmel" or "cepstra" (frames of `dim` values) or "waveform" (samples, dim 0). labels: (rows,) int64 index
    into speakers, -1 for test. offsets, num_frames: (rows,) int64 place and length in frames.bin, samples for
    waveforms. train_rows, test_rows: int64 rows of each split, test in the order of the submission. groups: the
    table's, joined where training utterances of two are the same recording (leaks.py).
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

    @classmethod
    def open(cls, path: str | Path) -> Table:
        """Read the tables of the store in directory `path`; raises RunError when it is absent or torn."""
        path = Path(path)
        try:
            meta = read_json(path / "meta.json")
            with open(path / "table.csv", encoding="utf-8", newline="") as file:
                header, *rows = csv.reader(file)
            columns = dict(zip(header, map(list, zip(*rows))))
            kind, dim = meta["kind"], meta["dim"] or 0
            index = {speaker: i for i, speaker in enumerate(meta["speakers"])}
            is_train = np.array([part == "train" for part in columns["split"]])
            labels = np.array([index[s] if t else -1 for s, t in zip(columns["speaker"], is_train)], np.int64)
            offsets, num_frames = (np.array(columns[name], np.int64) for name in ("offset", "num_frames"))
            size = (path / "frames.bin").stat().st_size
            wanted = meta["num_frames"] * (dim or 1) * np.dtype(DTYPES[kind]).itemsize
            if size != wanted or num_frames.sum() != meta["num_frames"]:
                raise ValueError(f"frames.bin has {size:,} bytes")
            num_train = int(is_train.sum())  # these come first
            utt_ids, groups = columns["utt_id"], columns["group"]
            recordings = names_of_recordings(utt_ids[:num_train], read_leaks(path))
            groups[:num_train] = joined_groups(groups[:num_train], recordings)
            return Table(path, meta["digest"], kind, dim, tuple(meta["speakers"]), meta["settings"], utt_ids,
                         labels, groups, columns["text"], np.flatnonzero(is_train), np.flatnonzero(~is_train),
                         offsets, num_frames)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}: not a whole store ({type(error).__name__}: {error}); remove this folder and run "
                           "preprocess again") from error

    @functools.cached_property
    def shortest(self) -> int:
        """The length of the shortest utterance in frames (samples for waveforms)."""
        return int(self.num_frames.min(initial=np.iinfo(np.int64).max))

    @functools.cached_property
    def table_digest(self) -> str:
        """The digest of rows, labels and groups: where they changed, old logits and folds mean other things."""
        return digest([self.utt_ids, self.speakers, self.labels.tolist(), self.groups])

    @property
    def samples_per_frame(self) -> int:
        """How many of the store's rows make one of the frames that settings count: a waveform's hop, 1 for frames."""
        return self.settings["hop_length"] if self.kind == "waveform" else 1

    def labelled(self, rows: np.ndarray, labels: np.ndarray) -> Self:
        """Return the same utterances with `labels` (M,) given to `rows` (M,)."""
        whole = self.labels.copy()
        whole[rows] = labels
        return replace(self, labels=whole)

    def folds(self, folds: Folds) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (train_rows, valid_rows) of each fold of the training utterances; see src.store.folds.split."""
        groups = [self.groups[row] for row in self.train_rows]
        return split(self.train_rows, self.labels[self.train_rows], groups, folds)
