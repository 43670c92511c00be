"""How a throughput is measured: units a second of a case made ready, over about so many seconds.

Passes over all units, equal batches, steps of the training loop, predictions of whole utterances.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from src.base.machine import reset_peak
from src.base.workspace import workspace_dir
from src.runs.plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

    from src.store.store import Store

WARMUP_STEPS = 5  # of every measurement of training: allocator, caches, compiled kernels, the capture of a graph
WAIT_EVERY = 100  # pieces of work: a GPU is asked so seldom that it never idles, often enough to stop in time


class Meter(Protocol):
    """A case made ready."""

    def rate(self, seconds: float) -> float:
        """Return units a second, measured over about `seconds`; 0 measures as little as there is."""


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
        from src.training.loop import Loop

        fold, batch_size = self.fold, self.fold.train.batch_size
        num_steps = max(2, round(seconds * self.last_rate / batch_size))
        times = []

        def timed(work: Callable[[int], dict[str, "Tensor"]], step: int) -> dict[str, "Tensor"]:
            if step == WARMUP_STEPS:
                _wait(fold.train.device)
                times.append(time.perf_counter())
            return work(step)

        def validate(step: int) -> dict[str, float]:  # the loop has waited for the device to sum up
            times.append(time.perf_counter())
            return {"valid_metric": 0.0}

        steps = WARMUP_STEPS + num_steps
        with tempfile.TemporaryDirectory(dir=workspace_dir()) as directory, silence():
            Loop(model=fold.model, optim=fold.experiment.optim, steps=steps, loss_of=partial(timed, fold.loss_of),
                 gradients_of=partial(timed, fold.gradients_of) if fold.captured else None, directory=Path(directory),
                 seed=fold.experiment.seed, fold=fold.fold, device=fold.train.device, validate=validate,
                 valid_every=steps).run()
        self.last_rate = num_steps * batch_size / (times[1] - times[0])
        return self.last_rate

    def flops_per_crop(self) -> float:
        """Return the floating-point operations of one crop's forward and backward pass, a multiply-add as two.

        Those that the model needs: in evaluation mode and not compiled it takes no detour for a GPU's sake.
        """
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        backward = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
        fold = self.fold
        fold.model.eval()
        kept, fold.shared_model = fold.shared_model, fold.model
        with FlopCounterMode(display=False, custom_mapping=backward) as counter:
            fold.loss_of(0)["loss"].backward()
        fold.shared_model = kept
        reset_peak(fold.train.device)  # of what is to be measured, which may need less
        return counter.get_total_flops() / fold.train.batch_size


class Predictions:
    """A model and the utterances that it is to see."""

    def __init__(self, model: Any, store: "Store", rows: np.ndarray, plan: Plan) -> None:
        self.model, self.store, self.plan, self.last_rate = model, store, plan, 0.0
        self.rows = rows[np.argsort(store.num_frames[rows], kind="stable")]

    def rate(self, seconds: float) -> float:
        """Return utterances a second over all of them, or over as many of every length as `seconds` are enough for."""
        from src.training.evaluate import predict

        count = min(len(self.rows), max(64, round(seconds * self.last_rate)))
        rows = self.rows[np.linspace(0, len(self.rows) - 1, count).round().astype(np.int64)]
        done, started = 0, time.perf_counter()
        took = started
        while not done or took - started < seconds / 2:
            predict(self.model, self.store, rows, self.plan.experiment.train, self.plan.experiment.infer)
            done, took = done + len(rows), time.perf_counter()
        self.last_rate = done / (took - started)
        return self.last_rate


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep a stage's messages and progress bars off the table."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


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
