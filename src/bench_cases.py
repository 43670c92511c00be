"""What `python -m src bench` measures: a case a throughput, each in a process of its own.

Goes in: where the input or the store lies, an experiment, how long to measure. Comes out: a rate and the process's peak
memory. A case is a frozen description; `open` makes ready what it measures, in the process that measures it, so that
neither an import nor an earlier case counts, and cases that are compared can be measured in turn.
"""

import contextlib
import importlib
import io
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tqdm import tqdm

from src.competition import Competition, Utterance
from src.config import Features
from src.errors import RunError
from src.plan import Plan
from src.workspace import cache_dir, workspace_dir

if TYPE_CHECKING:
    from torch import Tensor

    from src.store import Store

WARMUP_STEPS = 3  # of every measurement of training: allocator, caches, compiled kernels
WAIT_EVERY = 100  # pieces of work: a GPU is asked so seldom that it never idles, often enough to stop in time
READ_BYTES = 1 << 17  # at once, as cat does


class Case(Protocol):
    """Something to measure."""

    def open(self) -> "Meter":
        """Make ready what is measured."""


class Meter(Protocol):
    """A case made ready."""

    def rate(self, seconds: float) -> float:
        """Return units a second, measured over about `seconds`; 0 measures as little as there is."""


@dataclass(frozen=True)
class Reading:
    """Read every file of a competition and do nothing with it; utterances a second."""

    competition: Competition

    def open(self) -> "Passes":
        """List the files, each once."""
        root = str(self.competition.directory) + os.sep
        paths = [root + path for path in dict.fromkeys(u.path for u in self.competition.utterances)]
        return Passes(lambda: _read(paths), len(self.competition.utterances))


@dataclass(frozen=True)
class Preprocessing:
    """Make the store of a competition from nothing, in a workspace whose cache of it is lost; utterances a second."""

    competition: Competition
    features: Features

    def open(self) -> "Passes":
        """Import what the stage imports, torch among it, which takes seconds."""
        importlib.import_module("src.reader")
        from src.preprocess import preprocess

        def work() -> None:
            with _silence():
                preprocess(self.competition, self.features)

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

    def open(self) -> "Batches":
        """Open the store, on a GPU with all of its frames there."""
        from src.sampler import CropSampler
        from src.store import Store

        store = Store.open(self.store_dir)
        num_frames = self.crop_frames * (store.hop_length if store.kind == "waveform" else 1)
        rows = store.train_rows
        sampler = CropSampler(rows, store.num_frames[rows], store.labels[rows], crop_frames=num_frames, seed=0, fold=0)
        if self.device != "cpu":
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

    def open(self) -> "Batches":
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

    def open(self) -> "Steps":
        """Make the fold: model, sampler, augmentations, and on a GPU the store."""
        from src.store import Store
        from src.train import _Fold

        store, experiment = Store.open(self.plan.store_dir), self.plan.experiment
        parts = store.folds(experiment.folds)
        with _silence():
            return Steps(_Fold(self.plan, store, 0, len(parts), *parts[0]))


@dataclass(frozen=True)
class Inference:
    """Whole utterances through `evaluate.predict`: the test part, or the training part where there is none.

    num_frames: instead, one made-up utterance of so many frames, for its memory. Utterances a second.
    """

    plan: Plan
    num_frames: int = 0

    def open(self) -> "Predictions":
        """Make the model and open the store, on a GPU with all of its frames there."""
        import torch

        from src.model import SpeakerModel
        from src.store import Store

        train, store = self.plan.experiment.train, Store.open(self.plan.store_dir)
        torch.set_num_threads(train.threads)
        torch.manual_seed(0)
        if self.num_frames:
            store = _one_utterance(store, self.num_frames)
        rows = store.test_rows if len(store.test_rows) else store.train_rows
        model = SpeakerModel(self.plan.experiment, store.kind, store.dim, len(store.speakers)).to(train.device)
        return Predictions(model, store.to(train.device) if train.device != "cpu" else store, rows, self.plan)


@dataclass(frozen=True)
class MatrixProduct:
    """The product of two square bfloat16 matrices, as large as the device needs for its full rate; TFLOP a second."""

    device: str
    threads: int

    def open(self) -> "Batches":
        """Draw the matrices."""
        import torch

        torch.set_num_threads(self.threads)
        size = 8192 if self.device == "cuda" else 2048
        left, right = torch.randn(2, size, size, device=self.device).bfloat16()
        return Batches(lambda _: left @ right, 2 * size**3 / 1e12, self.device)


# Meters ---------------------------------------------------------------------------------------------------------------


class Passes:
    """A job over all units, begun anew each time; `clear`, which is not measured, forgets what the last one left."""

    def __init__(self, work: Callable[[], None], num_units: int, clear: Callable[[], None] = lambda: None) -> None:
        self.work, self.num_units, self.clear = work, num_units, clear

    def rate(self, seconds: float) -> float:
        """Return units a second over whole passes, as many as begin within `seconds`, at least one."""
        passes, took = 0, 0.0
        while not passes or took < seconds:
            self.clear()
            started = time.perf_counter()
            self.work()
            took += time.perf_counter() - started
            passes += 1
        return passes * self.num_units / took


class Batches:
    """Equal pieces of work, numbered on from measurement to measurement; `draw` returns a tensor of the device."""

    def __init__(self, draw: Callable[[int], "Tensor"], batch_size: float, device: str) -> None:
        self.draw, self.batch_size, self.device, self.done = draw, batch_size, device, 0

    def rate(self, seconds: float) -> float:
        """Return units a second."""
        first = self.done
        _wait(self.device)
        started = time.perf_counter()
        while self.done == first or time.perf_counter() - started < seconds:
            self.draw(self.done)
            self.done += 1
            if self.done % WAIT_EVERY == 0:
                _wait(self.device)
        _wait(self.device)
        return (self.done - first) * self.batch_size / (time.perf_counter() - started)


class Steps:
    """A fold whose training goes on from measurement to measurement, each a run of the loop of its own length."""

    def __init__(self, fold: Any) -> None:
        self.fold, self.last_rate = fold, 0.0

    def rate(self, seconds: float) -> float:
        """Return crops a second: from a loop's step after its warm-up to the sums that follow its last step."""
        from src.loop import Loop

        fold, batch_size = self.fold, self.fold.train.batch_size
        num_steps = max(2, round(seconds * self.last_rate / batch_size))
        times = []

        def loss_of(step: int) -> dict[str, "Tensor"]:
            if step == WARMUP_STEPS:
                _wait(fold.train.device)
                times.append(time.perf_counter())
            return fold.loss_of(step)

        def validate(step: int) -> dict[str, float]:  # the loop has waited for the device to sum up
            times.append(time.perf_counter())
            return {"valid_metric": 0.0}

        steps = WARMUP_STEPS + num_steps
        with tempfile.TemporaryDirectory(dir=workspace_dir()) as directory, _silence():
            Loop(model=fold.model, optim=fold.experiment.optim, steps=steps, loss_of=loss_of, directory=Path(directory),
                 seed=fold.experiment.seed, fold=fold.fold, device=fold.train.device, validate=validate,
                 valid_every=steps).run()
        self.last_rate = num_steps * batch_size / (times[1] - times[0])
        return self.last_rate

    def flops_per_crop(self) -> float:
        """Return the floating-point operations of one crop's forward and backward pass, a multiply-add as two."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        backward = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
        self.fold.model.train()
        with FlopCounterMode(display=False, custom_mapping=backward) as counter:
            self.fold.loss_of(0)["loss"].backward()
        return counter.get_total_flops() / self.fold.train.batch_size


class Predictions:
    """A model and the utterances that it is to see."""

    def __init__(self, model: Any, store: "Store", rows: np.ndarray, plan: Plan) -> None:
        self.model, self.store, self.plan, self.last_rate = model, store, plan, 0.0
        self.rows = rows[np.argsort(store.num_frames[rows], kind="stable")]

    def rate(self, seconds: float) -> float:
        """Return utterances a second over all of them, or over as many of every length as `seconds` are enough for."""
        from src.evaluate import predict

        count = min(len(self.rows), max(64, round(seconds * self.last_rate)))
        rows = self.rows[np.linspace(0, len(self.rows) - 1, count).round().astype(np.int64)]
        done, started = 0, time.perf_counter()
        took = started
        while not done or took - started < seconds / 2:
            predict(self.model, self.store, rows, self.plan.experiment.train, self.plan.experiment.infer)
            done, took = done + len(rows), time.perf_counter()
        self.last_rate = done / (took - started)
        return self.last_rate


# Processes ------------------------------------------------------------------------------------------------------------


class Worker:
    """A case in a process of its own, which sleeps while another one is measured.

    Use it as a context. Raises RunError when the process dies; an error in the case is raised here as it was there.
    """

    def __init__(self, case: Case, about: str) -> None:
        self.about = about
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, case), daemon=True)
        self.process.start()
        theirs.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what a method of the case's meter returns there."""
        try:
            self.pipe.send((method, arguments))
            answer = self.pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self.process.join(5)
            raise RunError(f"bench: {self.about}: the process that measured it died with exit code "
                           f"{self.process.exitcode} (-9: mostly for want of memory); leave this stage or experiment "
                           "out, or make room") from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def measure(self, seconds: float) -> tuple[float, float]:
        """Return the rate and the peak memory so far in MB: of the GPU where there is one, else of the process."""
        return self.call("rate", seconds), self.call("peak_mb")


def _serve(pipe: Connection, case: Case) -> None:
    """Answer the parent's calls until it kills this process or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process would leave behind
    meter = None
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            meter = meter or case.open()
            answer = peak_mb() if method == "peak_mb" else getattr(meter, method)(*arguments)
        except KeyboardInterrupt:  # while training, whose loop listens for it
            return
        except Exception as error:
            error.add_note(traceback.format_exc())
            answer = error
        pipe.send(answer)


def peak_mb(process_id: str = "self") -> float:
    """Return the largest memory that a process has had, in MB of a million bytes; 0 for one that is gone.

    Of this process it is the GPU's memory where it has used a GPU.
    """
    torch = sys.modules.get("torch")
    if process_id == "self" and torch and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    try:  # a child's ru_maxrss begins with its parent's, VmHWM does not
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), 0.0)
    except OSError:
        if process_id != "self":
            return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


# What the cases share -------------------------------------------------------------------------------------------------


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

    length = num_frames * (store.hop_length if store.kind == "waveform" else 1)
    flat = torch.randn((length, store.dim) if store.dim else (length,))
    flat = (flat * 1000).short() if store.kind == "waveform" else flat.to(store.flat.dtype)
    one = np.zeros(1, np.int64)
    return replace(store, labels=one - 1, train_rows=one[:0], test_rows=one, offsets=one,
                   num_frames=np.array([length]), flat=flat)


def _convolution_backward_flops(grad_shape: Any, input_shape: Any, weight_shape: Any, *rest: Any, **_: Any) -> int:
    """Return the operations of each gradient that is asked for, as many as the forward pass took.

    torch's own formula leaves the groups out and counts a depthwise convolution's weight gradient C-fold.
    """
    forward = 2 * int(np.prod(grad_shape)) * int(np.prod(weight_shape[1:]))
    return forward * sum(rest[-1][:2])


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep a stage's messages and progress bars off the table."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
