"""Training and inference of an experiment: steps of the training loop, predictions, batches of whole utterances."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from src.apps.bench.batches import Batches, wait
from src.apps.bench.passes import silence
from src.base.machine import reset_peak
from src.base.workspace import workspace_dir
from src.model.speaker_model import SpeakerModel
from src.runs.plan import Plan
from src.store.store import Store
from src.training.evaluate import predict
from src.training.fold import Fold
from src.training.loop import Loop

WARMUP_STEPS = 5  # of every measurement of training: allocator, caches, compiled kernels, the capture of a graph


class Steps:
    """A fold whose training goes on from measurement to measurement, each a run of the loop of its own length."""

    def __init__(self, fold: Fold) -> None:
        self.fold, self.last_rate = fold, 0.0

    def rate(self, seconds: float) -> float:
        """Return crops a second: from a loop's step after its warm-up to the sums that follow its last step."""
        fold, batch_size = self.fold, self.fold.train.batch_size
        num_steps = max(2, round(seconds * self.last_rate / batch_size))
        times = []

        def timed(work: Callable[[int], dict[str, Tensor]], step: int) -> dict[str, Tensor]:
            if step == WARMUP_STEPS:
                wait(fold.train.device)
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

    def __init__(self, model: SpeakerModel, store: Store, rows: np.ndarray, plan: Plan) -> None:
        self.model, self.store, self.plan, self.last_rate = model, store, plan, 0.0
        self.rows = rows[np.argsort(store.num_frames[rows], kind="stable")]

    def rate(self, seconds: float) -> float:
        """Return utterances a second over all of them, or over as many of every length as `seconds` are enough for."""
        count = min(len(self.rows), max(64, round(seconds * self.last_rate)))
        rows = self.rows[np.linspace(0, len(self.rows) - 1, count).round().astype(np.int64)]
        done, started = 0, time.perf_counter()
        took = started
        while not done or took - started < seconds / 2:
            predict(self.model, self.store, rows, self.plan.experiment.train, self.plan.experiment.infer)
            done, took = done + len(rows), time.perf_counter()
        self.last_rate = done / (took - started)
        return self.last_rate


@dataclass(frozen=True)
class Training:
    """The steps of `train`'s own loop on the first fold of a plan; crops a second."""

    plan: Plan

    def open(self) -> Steps:
        """Make the fold: model, sampler, augmentations, and on a GPU the store."""
        store = Store.open(self.plan.store_dir)
        with silence():
            return Steps(Fold(self.plan, store, 0))


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
        rows, size = fold.crops.sampler.rows, fold.train.batch_size
        longest = int(fold.store.num_frames[rows].max())

        def draw(i: int) -> Tensor:
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
        train, store = self.plan.experiment.train, Store.open(self.plan.store_dir)
        torch.set_num_threads(train.threads)
        torch.manual_seed(0)
        if self.num_frames:
            store = _one_utterance(store, self.num_frames)
        rows = store.test_rows if len(store.test_rows) else store.train_rows
        model = SpeakerModel(self.plan.experiment, store.kind, store.dim, len(store.speakers)).to(train.device)
        return Predictions(model, store.to(train.device), rows, self.plan)


def _one_utterance(store: Store, num_frames: int) -> Store:
    """Return a store like `store` whose only utterance has `num_frames` frames of noise."""
    length = num_frames * store.samples_per_frame
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
