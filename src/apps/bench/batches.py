"""Equal batches of work: training crops from the store and from files, the product of two matrices."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from src.competition.open import Competition
from src.competition.utterances import Utterance
from src.settings.config import Features
from src.store.store import Store
from src.training.sampler import CropSampler

WAIT_EVERY = 100  # pieces of work: a GPU is asked so seldom that it never idles, often enough to stop in time


class Batches:
    """Equal pieces of work, numbered on from measurement to measurement; `draw` returns a tensor of the device."""

    def __init__(self, draw: Callable[[int], Tensor], batch_size: float, device: str) -> None:
        self.draw, self.batch_size, self.device, self.done = draw, batch_size, device, 0

    def rate(self, seconds: float) -> float:
        """Return units a second."""
        first = self.done
        wait(self.device)
        started = time.perf_counter()
        while self.done == first or time.perf_counter() - started < seconds:
            self.draw(self.done)
            self.done += 1
            if self.done % WAIT_EVERY == 0:
                wait(self.device)
        wait(self.device)
        return (self.done - first) * self.batch_size / (time.perf_counter() - started)


@dataclass(frozen=True)
class StoreCrops:
    """Random training crops as `train` draws them: a sampler and a store; crops a second."""

    store_dir: Path
    crop_frames: int
    batch_size: int
    device: str

    def open(self) -> Batches:
        """Open the store, on a GPU with all of its frames there."""
        store = Store.open(self.store_dir)
        num_frames = self.crop_frames * store.samples_per_frame
        rows = store.train_rows
        sampler = CropSampler(rows, store.num_frames[rows], store.labels[rows], crop_frames=num_frames, seed=0, fold=0)
        store = store.to(self.device)

        def draw(i: int) -> Tensor:
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
        """Choose how a file of the competition is read."""
        rng, train = np.random.default_rng(0), [u for u in self.competition.utterances if u.split == "train"]
        read = _load_frames if self.competition.kind == "course" else _decode_samples
        size = self.crop_frames * (1 if self.competition.kind == "course" else self.features.hop_length)

        def draw(_: int) -> Tensor:
            return torch.stack([crop(train[i]) for i in rng.integers(len(train), size=self.batch_size)])

        def crop(utterance: Utterance) -> Tensor:
            values = read(self.competition.directory / utterance.path)
            start = rng.integers(max(1, len(values) - size + 1))
            values = values[start : start + size]
            return torch.nn.functional.pad(values, (0, 0) * (values.dim() - 1) + (0, size - len(values)))

        return Batches(draw, self.batch_size, "cpu")


@dataclass(frozen=True)
class MatrixProduct:
    """The product of two square matrices, as large as the device needs for its full rate; TFLOP a second."""

    device: str
    threads: int
    precision: str  # "float32" or "bfloat16"

    def open(self) -> Batches:
        """Draw the matrices."""
        torch.set_num_threads(self.threads)
        size = 8192 if self.device == "cuda" else 2048
        left, right = torch.randn(2, size, size, device=self.device).to(getattr(torch, self.precision))
        return Batches(lambda _: left @ right, 2 * size**3 / 1e12, self.device)


def wait(device: str) -> None:
    """Wait for all work on a GPU to be done."""
    if device == "cuda":
        torch.cuda.synchronize()


def _load_frames(path: Path) -> Tensor:
    return torch.load(path, weights_only=True)


def _decode_samples(path: Path) -> Tensor:
    return torch.from_numpy(soundfile.read(path, dtype="float32", always_2d=True)[0].mean(1))
