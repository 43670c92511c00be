"""One fold of a run: data, model and augmentations as the training loop needs them."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from src.base import distributed
from src.base.machine import keep_large_blocks
from src.model import finetune
from src.model.checkpoint import save_model
from src.model.speaker_model import SpeakerModel, num_parameters
from src.runs.logits import accuracy, cross_entropy, save_logits
from src.runs.plan import Plan
from src.runs.pseudo_labels import read_pseudo_labels
from src.settings.config import Experiment
from src.settings.parts import lookup
from src.store.batch import Batch
from src.store.store import Store
from src.training.augmentations import Augmentations
from src.training.classical import fit_fold
from src.training.collectives import wrap_ddp
from src.training.compile import CapturedGradients, compiled
from src.training.crops import TrainingCrops
from src.training.evaluate import autocast, predict
from src.training.head_removal import remove_least_important
from src.training.loop import Loop, step_seed
from src.training.loss import Classification, mix_up
from src.training.workers import Place

MEASURED_STEPS = 16  # whose crops tell which attention heads matter least, where the experiment removes some
Report = Callable[[int, int, float], None]  # (fold, step, validation accuracy) of a validation under way


def train_fold(plan: Plan, store: Store, fold: int, place: Place | None = None, report: Report | None = None) -> None:
    """Train one fold of a plan and leave its folder whole. place: this process's beside others that train folds."""
    if lookup("encoder", plan.experiment.encoder.name).takes == "utterances":
        fit_fold(plan, store, fold, *store.folds(plan.experiment.folds)[fold])
        return
    Fold(plan, store, fold).run(report, place)


class Fold:
    """One fold of a run: data, augmentations and model as the training loop needs them.

    store: that of the plan. fold: its number, from 0.
    """

    def __init__(self, plan: Plan, store: Store, fold: int) -> None:
        self.experiment, self.train = plan.experiment, plan.experiment.train
        self.fold, self.folder = fold, plan.run.fold(fold)
        torch.set_num_threads(self.train.threads)
        keep_large_blocks()
        folds = store.folds(self.experiment.folds)
        self.name = f"{plan.run_id} fold {fold + 1}/{len(folds)}"
        train_rows, self.valid_rows = folds[fold]
        if self.train.pseudo_labels:
            store, train_rows = with_pseudo_labels(plan, store, train_rows, fold)
        self.store = store.to(self.train.device)
        self.crops = TrainingCrops(self.store, train_rows, self.experiment, fold)
        self.task = Classification(self.train.label_smoothing)
        self.augmentations = Augmentations(self.experiment.augment, store.kind, len(store.speakers),
                                           self.train.speed_classes)
        self.model = self.shared_model = initial_model(self.experiment, store, self.augmentations.num_copies, fold)
        self.generator = torch.Generator(self.train.device)
        if self.experiment.finetune.remove:
            self._remove_heads(self.experiment.finetune.remove)
        if fold == 0 and distributed.is_main():
            print(finetune.describe(self.model, self.experiment.finetune.regime))
        self.shared_model = shared(self.model, self.experiment)
        self.captured = None
        if can_be_captured(self.experiment, self.augmentations):
            self.captured = CapturedGradients(self.model, self.losses_of, self.generator)

    def _remove_heads(self, num_heads: int) -> None:
        """Take the attention heads that matter least to the crops of the first steps out of the model."""
        remove_least_important(self.model.eval(), num_heads, self.folder.directory, range(MEASURED_STEPS),
                               lambda step: self.loss_of(step)["loss"])

    def run(self, report: Report | None, place: Place | None) -> None:
        """Fit, then save model, logits and result, the result last."""
        loop = Loop(
            model=self.model, optim=self.experiment.optim, steps=self.train.steps, loss_of=self.loss_of,
            gradients_of=self.gradients_of if self.captured else None, directory=self.folder.directory,
            seed=self.experiment.seed, fold=self.fold, device=self.train.device,
            validate=partial(self.validate, report), valid_every=self.train.valid_every, select=self.train.select,
            description=self.name, stop_asked=place.stop.is_set if place else None,
            bar_line=place.number if place else None)
        progress = loop.run()
        self.captured = None  # it knows this fold, a cycle that would keep the graph's memory while the next is trained
        if not distributed.is_main():
            return
        started = time.monotonic()
        save_model(self.folder.model_path, self.model, self.experiment, self.store.kind, self.store.dim,
                   self.store.speakers)
        valid = predict(self.model, self.store, self.valid_rows, self.train, self.experiment.infer)
        save_logits(self.folder.valid_path, self.valid_rows, valid)
        test = predict(self.model, self.store, self.store.test_rows, self.train, self.experiment.infer)
        save_logits(self.folder.test_path, self.store.test_rows, test)
        self.folder.finish({
            "params": num_parameters(self.model), "train": progress.log[-1].get("accuracy", float("nan")),
            "num_right": int((valid.argmax(1) == self.store.labels[self.valid_rows]).sum()),
            "num_valid": len(self.valid_rows),
            "best_step": (self.train.select == "best" and progress.best_step) or progress.step,
            "seconds": round(progress.seconds + time.monotonic() - started, 2)})

    def loss_of(self, step: int) -> dict[str, Tensor]:
        """Return loss and accuracy of the step's crops, augmented."""
        return self.losses_of(self.crops_of(step))

    def gradients_of(self, step: int) -> dict[str, Tensor]:
        """Return what loss_of does, the backward pass done, from a CUDA graph."""
        return self.captured(self.crops_of(step))

    def crops_of(self, step: int) -> Batch:
        """Return the step's crops, with the random numbers and the margin that are due for it."""
        self.generator.manual_seed(step_seed(self.experiment.seed, self.fold, step) + distributed.rank())
        self.model.head.set_progress(step / self.train.steps)
        return self.crops.batch(step)

    def losses_of(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss and accuracy of crops after augmentation."""
        inputs, labels = self.augmentations.on_waveforms(batch.inputs, batch.lengths, batch.labels, self.generator)
        frames, lengths = self.model.extract(inputs, batch.lengths)
        frames, labels = self.augmentations.on_frames(frames, lengths, labels, self.generator)
        if not self.train.mixup:
            with autocast(self.train):
                logits = self.shared_model(frames, lengths, labels)
            return {"loss": self.task.losses(logits, labels).mean(), "accuracy": self.task.accuracy(logits, labels)}
        frames, other, share = mix_up(frames, self.train.mixup, self.generator)
        targets = torch.stack([labels, labels[other]])
        with autocast(self.train):
            logits = self.shared_model(frames, lengths, targets)
        losses = [self.task.losses(*pair) for pair in zip(logits, targets)]
        return {"loss": (share * losses[0] + (1 - share) * losses[1]).mean(),
                "accuracy": self.task.accuracy(logits[0], labels)}

    def validate(self, report: Report | None, step: int) -> dict[str, float]:
        """Return loss and accuracy of the held-out utterances, whole and masked, as a submission sees them."""
        logits = predict(self.model, self.store, self.valid_rows, self.train, self.experiment.infer)
        labels = self.store.labels[self.valid_rows]
        metric = accuracy(logits, labels)
        if report:
            report(self.fold, step, metric)
        return {"valid_metric": metric, "valid_loss": cross_entropy(logits, labels)}


def with_pseudo_labels(plan: Plan, store: Store, train_rows: np.ndarray, fold: int) -> tuple[Store, np.ndarray]:
    """Return the store with the plan's pseudo-labels, and the training rows with those that have one joined to them."""
    own = None if plan.experiment.folds == "all" else fold
    rows, labels = read_pseudo_labels(plan.pseudo_labels.pseudo_labels_path, own, plan.experiment.train.pseudo_share)
    return store.labelled(rows, labels), np.concatenate([train_rows, rows])


def initial_model(experiment: Experiment, store: Store, num_copies: int, fold: int) -> SpeakerModel:
    """Return the model before its first step, on the device that trains; num_copies: classes of a speaker."""
    torch.manual_seed(step_seed(experiment.seed, fold, -1))
    model = SpeakerModel(experiment, store.kind, store.dim, len(store.speakers), num_copies)
    return model.to(experiment.train.device)


def shared(model: SpeakerModel, experiment: Experiment) -> nn.Module:
    """Return the model as a step calls it: shared between the processes, and compiled where that is asked for."""
    skips = experiment.encoder.kwargs.get("layer_drop", 0.0) > 0.0
    wrapped = wrap_ddp(model, experiment.train.device, skips=skips)
    return compiled(wrapped) if experiment.train.compile else wrapped


def can_be_captured(experiment: Experiment, augmentations: Augmentations) -> bool:
    """Return whether a step is to be replayed from a CUDA graph, and nothing in it asks the device for a value."""
    train = experiment.train
    takes_frames = lookup("encoder", experiment.encoder.name).takes == "frames"
    return (train.capture and takes_frames and not augmentations.waits and train.device == "cuda"
            and distributed.world_size() == 1)
