"""What `python -m src bench` measures: a case a throughput, each in a process of its own.

Goes in: where the input or the store lies, an experiment, how long to measure. Comes out: a rate and the process's peak
memory. A case is a frozen description; `open` makes ready what it measures, in the process that measures it, so that
neither an import nor an earlier case counts, and cases that are compared can be measured in turn.
"""

import importlib
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from src.apps.bench.meters import Batches, Passes, Predictions, Steps, silence
from src.base.workspace import cache_dir
from src.competition.open import Competition
from src.competition.utterances import Utterance
from src.runs.plan import Plan
from src.settings.config import Features

if TYPE_CHECKING:
    from torch import Tensor

    from src.store.store import Store

READ_BYTES = 1 << 17  # at once, as cat does


@dataclass(frozen=True)
class Reading:
    """Read every file of a competition and do nothing with it; utterances a second."""

    competition: Competition

    def open(self) -> Passes:
        """List the files, each once."""
        root = str(self.competition.directory) + os.sep
        paths = [root + path for path in dict.fromkeys(u.path for u in self.competition.utterances)]
        return Passes(lambda: _read(paths), len(self.competition.utterances))


@dataclass(frozen=True)
class Preprocessing:
    """Make the store of a competition from nothing, in a workspace whose cache of it is lost; utterances a second."""

    competition: Competition
    features: Features

    def open(self) -> Passes:
        """Import what the stage imports, torch among it, which takes seconds."""
        importlib.import_module("src.store.decoder")
        from src.store.ensure import ensure_store

        def work() -> None:
            with silence():
                ensure_store(self.competition, self.features)

        def clear() -> None:
            shutil.rmtree(cache_dir(self.competition.name), ignore_errors=True)

        return Passes(work, len(self.competition.utterances), clear)


@dataclass(frozen=True)
class StoreCrops:
    """Random training crops as `train` draws them: a sampler and a store; crops a second."""

    store_dir: Path
    crop_frames: int
    batch_size: int
    device: str

    def open(self) -> Batches:
        """Open the store, on a GPU with all of its frames there."""
        from src.store.store import Store
        from src.training.sampler import CropSampler

        store = Store.open(self.store_dir)
        num_frames = self.crop_frames * store.samples_per_frame
        rows = store.train_rows
        sampler = CropSampler(rows, store.num_frames[rows], store.labels[rows], crop_frames=num_frames, seed=0, fold=0)
        store = store.to(self.device)

        def draw(i: int) -> "Tensor":
            return store.crops(*sampler.take(i * self.batch_size, self.batch_size), num_frames).inputs

        return Batches(draw, self.batch_size, self.device)


@dataclass(frozen=True)
class FileCrops:
    """Random training crops as a loop gets them that opens a file an item; crops a second.

    A .pt file is loaded, an audio file decoded (its log-mels, which such a loop also needs, are not counted).
    """

    competition: Competition
    features: Features
    crop_frames: int
    batch_size: int

    def open(self) -> Batches:
        """Import what reads the files."""
        import torch

        rng, train = np.random.default_rng(0), [u for u in self.competition.utterances if u.split == "train"]
        read = _load_frames if self.competition.kind == "course" else _decode_samples
        size = self.crop_frames * (1 if self.competition.kind == "course" else self.features.hop_length)

        def draw(_: int) -> "Tensor":
            return torch.stack([crop(train[i]) for i in rng.integers(len(train), size=self.batch_size)])

        def crop(utterance: Utterance) -> "Tensor":
            values = read(self.competition.directory / utterance.path)
            start = rng.integers(max(1, len(values) - size + 1))
            values = values[start : start + size]
            return torch.nn.functional.pad(values, (0, 0) * (values.dim() - 1) + (0, size - len(values)))

        return Batches(draw, self.batch_size, "cpu")


@dataclass(frozen=True)
class Training:
    """The steps of `train`'s own loop on the first fold of a plan; crops a second."""

    plan: Plan

    def open(self) -> Steps:
        """Make the fold: model, sampler, augmentations, and on a GPU the store."""
        from src.store.store import Store
        from src.training.fold import Fold

        store, experiment = Store.open(self.plan.store_dir), self.plan.experiment
        parts = store.folds(experiment.folds)
        with silence():
            return Steps(Fold(self.plan, store, 0, len(parts), *parts[0]))


@dataclass(frozen=True)
class WholeUtterances:
    """Forward and backward pass of an experiment over random batches of whole training utterances; utterances a second.

    padding: "longest" fills each batch up to its own longest utterance, "max_length" to the longest of them all.
    """

    plan: Plan
    padding: str

    def open(self) -> Batches:
        """Make the first fold, as training does."""
        fold = Training(self.plan).open().fold
        rows, size = fold.sampler.rows, fold.train.batch_size
        longest = int(fold.store.num_frames[rows].max())

        def draw(i: int) -> "Tensor":
            chosen = np.random.default_rng(i).choice(rows, size)
            num_frames = longest if self.padding == "max_length" else int(fold.store.num_frames[chosen].max())
            batch = fold.store.crops(chosen, np.zeros_like(chosen), num_frames).to(fold.train.device)
            fold.model.zero_grad(set_to_none=True)
            loss = fold.losses_of(batch)["loss"]
            loss.backward()
            return loss.detach()

        return Batches(draw, size, fold.train.device)


@dataclass(frozen=True)
class Inference:
    """Whole utterances through `evaluate.predict`: the test part, or the training part where there is none.

    num_frames: instead, one made-up utterance of so many frames, for its memory. Utterances a second.
    """

    plan: Plan
    num_frames: int = 0

    def open(self) -> Predictions:
        """Make the model and open the store, on a GPU with all of its frames there."""
        import torch

        from src.model.speaker_model import SpeakerModel
        from src.store.store import Store

        train, store = self.plan.experiment.train, Store.open(self.plan.store_dir)
        torch.set_num_threads(train.threads)
        torch.manual_seed(0)
        if self.num_frames:
            store = _one_utterance(store, self.num_frames)
        rows = store.test_rows if len(store.test_rows) else store.train_rows
        model = SpeakerModel(self.plan.experiment, store.kind, store.dim, len(store.speakers)).to(train.device)
        return Predictions(model, store.to(train.device), rows, self.plan)


@dataclass(frozen=True)
class MatrixProduct:
    """The product of two square matrices, as large as the device needs for its full rate; TFLOP a second."""

    device: str
    threads: int
    precision: str  # "float32" or "bfloat16"

    def open(self) -> Batches:
        """Draw the matrices."""
        import torch

        torch.set_num_threads(self.threads)
        size = 8192 if self.device == "cuda" else 2048
        left, right = torch.randn(2, size, size, device=self.device).to(getattr(torch, self.precision))
        return Batches(lambda _: left @ right, 2 * size**3 / 1e12, self.device)


def part_of(competition: Competition, divisor: int) -> Competition:
    """Return a competition of every divisor-th training and test utterance of `competition`, in the same folder."""
    utterances = [[u for u in competition.utterances if u.split == split][::divisor] for split in ("train", "test")]
    return replace(competition, utterances=(*utterances[0], *utterances[1]))


def _read(paths: list[str]) -> None:
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            while os.read(file, READ_BYTES):
                pass
        finally:
            os.close(file)


def _load_frames(path: Path) -> "Tensor":
    import torch

    return torch.load(path, weights_only=True)


def _decode_samples(path: Path) -> "Tensor":
    import soundfile
    import torch

    return torch.from_numpy(soundfile.read(path, dtype="float32", always_2d=True)[0].mean(1))


def _one_utterance(store: "Store", num_frames: int) -> "Store":
    """Return a store like `store` whose only utterance has `num_frames` frames of noise."""
    import torch

    length = num_frames * store.samples_per_frame
    flat = torch.randn((length, store.dim) if store.dim else (length,))
    flat = (flat * 1000).short() if store.kind == "waveform" else flat.to(store.flat.dtype)
    one = np.zeros(1, np.int64)
    return replace(store, labels=one - 1, train_rows=one[:0], test_rows=one, offsets=one,
                   num_frames=np.array([length]), flat=flat)
