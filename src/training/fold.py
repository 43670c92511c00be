"""One fold of a run: data, model and augmentations as the training loop needs them."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from src.augment.base import Augmentation, check_kinds
from src.augment.speed import SpeedCopies
from src.base import distributed
from src.base.machine import keep_large_blocks
from src.model import finetune
from src.model.checkpoint import save_model
from src.model.speaker_model import SpeakerModel, num_parameters
from src.runs.logits import accuracy, cross_entropy, save_logits
from src.runs.plan import Plan
from src.runs.pseudo_labels import read_pseudo_labels
from src.settings.parts import build, lookup
from src.store.batch import Batch
from src.store.store import Store
from src.training.classical import fit_fold
from src.training.collectives import wrap_ddp
from src.training.evaluate import autocast, predict
from src.training.head_removal import remove_least_important
from src.training.loop import Loop, step_seed
from src.training.loss import Classification, mix_up
from src.training.sampler import CropSampler
from src.training.workers import Place

MEASURED_STEPS = 16  # whose crops tell which attention heads matter least, where the experiment removes some
Report = Callable[[int, int, float], None]  # (fold, step, validation accuracy) of a validation under way


def train_fold(plan: Plan, store: Store, fold: int, place: Place | None = None, report: Report | None = None) -> None:
    """Train one fold of a plan and leave its folder whole. place: this process's beside others that train folds."""
    folds = store.folds(plan.experiment.folds)
    if lookup("encoder", plan.experiment.encoder.name).takes == "utterances":
        fit_fold(plan, store, fold, *folds[fold])
        return
    Fold(plan, store, fold, len(folds), *folds[fold]).run(report, place)


class Fold:
    """One fold of a run: what the loop needs to know of data and model."""

    def __init__(self, plan: Plan, store: Store, fold: int, num_folds: int, train_rows: np.ndarray,
                 valid_rows: np.ndarray) -> None:
        self.experiment, self.train = plan.experiment, plan.experiment.train
        self.fold, self.valid_rows = fold, valid_rows
        self.name = f"{plan.run_id} fold {fold + 1}/{num_folds}"
        self.folder = plan.run.fold(fold)
        torch.set_num_threads(self.train.threads)
        keep_large_blocks()
        if self.train.pseudo_labels:
            own = None if self.experiment.folds == "all" else fold
            rows, labels = read_pseudo_labels(plan.pseudo_labels.pseudo_labels_path, own, self.train.pseudo_share)
            store, train_rows = store.labelled(rows, labels), np.concatenate([train_rows, rows])
        self.store = store.to(self.train.device)
        self.task = Classification(self.train.label_smoothing)
        self.crop_size = self.train.crop_frames * store.samples_per_frame
        self.repeats = {"pad": False, "repeat": True, "device": self.train.device == "cuda"}[self.train.short]
        self.sampler = CropSampler(
            train_rows, store.num_frames[train_rows], store.labels[train_rows], seed=self.experiment.seed, fold=fold,
            crop_frames=self.crop_size, balanced=self.train.balanced)
        augmentations = [build("augment", item) for item in self.experiment.augment]
        self.waveform_augmentations = [a for a in augmentations if "waveform" in a.kinds]
        self.frame_augmentations = [a for a in augmentations if "waveform" not in a.kinds]
        check_kinds(self.waveform_augmentations, store.kind)
        check_kinds(self.frame_augmentations, "logmel" if store.kind == "waveform" else store.kind)
        speeds = [a for a in augmentations if isinstance(a, SpeedCopies)]
        self.speed = speeds[0] if self.train.speed_classes else None  # the one whose copies are classes
        num_copies = len(self.speed.factors) if self.speed else 1
        torch.manual_seed(step_seed(self.experiment.seed, fold, -1))
        self.model = SpeakerModel(self.experiment, store.kind, store.dim, len(store.speakers), num_copies)
        self.model.to(self.train.device)
        self.shared_model = self.model
        self.generator = torch.Generator(self.train.device)
        chosen = self.experiment.finetune
        if chosen.remove:
            remove_least_important(self.model.eval(), chosen.remove, self.folder.directory, range(MEASURED_STEPS),
                                   lambda step: self.loss_of(step)["loss"])
        if fold == 0 and distributed.is_main():
            print(finetune.describe(self.model, chosen.regime))
        self.shared_model = wrap_ddp(self.model, self.train.device,
                                     skips=self.experiment.encoder.kwargs.get("layer_drop", 0.0) > 0.0)
        if self.train.compile:
            from src.training.compile import compiled

            self.shared_model = compiled(self.shared_model)
        self.captured = None
        fits = lookup("encoder", self.experiment.encoder.name).takes == "frames" and not any(
            augmentation.waits for augmentation in augmentations)
        if self.train.capture and fits and self.train.device == "cuda" and distributed.world_size() == 1:
            from src.training.compile import CapturedGradients

            self.captured = CapturedGradients(self.model, self.losses_of, self.generator)

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
        size = self.train.batch_size
        rows, starts = self.sampler.take(*distributed.share(step * size, size))
        self.generator.manual_seed(step_seed(self.experiment.seed, self.fold, step) + distributed.rank())
        self.model.head.set_progress(step / self.train.steps)
        return self.store.crops(rows, starts, self.crop_size, self.repeats).to(self.train.device)

    def losses_of(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss and accuracy of crops after augmentation."""
        generator = self.generator
        inputs, lengths, labels = batch.inputs, batch.lengths, batch.labels
        inputs, labels = self.augmented(self.waveform_augmentations, inputs, lengths, labels, generator)
        frames, lengths = self.model.extract(inputs, lengths)
        frames, labels = self.augmented(self.frame_augmentations, frames, lengths, labels, generator)
        if not self.train.mixup:
            with autocast(self.train):
                logits = self.shared_model(frames, lengths, labels)
            return {"loss": self.task.losses(logits, labels).mean(), "accuracy": self.task.accuracy(logits, labels)}
        frames, other, share = mix_up(frames, self.train.mixup, generator)
        targets = torch.stack([labels, labels[other]])
        with autocast(self.train):
            logits = self.shared_model(frames, lengths, targets)
        losses = [self.task.losses(*pair) for pair in zip(logits, targets)]
        return {"loss": (share * losses[0] + (1 - share) * losses[1]).mean(),
                "accuracy": self.task.accuracy(logits[0], labels)}

    def augmented(self, augmentations: list[Augmentation], inputs: Tensor, lengths: Tensor | None, labels: Tensor,
                  generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return inputs and labels after the augmentations; a speed's copies may be classes of their own."""
        for augmentation in augmentations:
            if augmentation is self.speed:
                copies = augmentation.draw(len(labels), generator)
                inputs, labels = augmentation.apply(inputs, lengths, copies), labels + copies * self.model.num_speakers
            else:
                inputs, _ = augmentation(inputs, lengths, generator)
        return inputs, labels

    def validate(self, report: Report | None, step: int) -> dict[str, float]:
        """Return loss and accuracy of the held-out utterances, whole and masked, as a submission sees them."""
        logits = predict(self.model, self.store, self.valid_rows, self.train, self.experiment.infer)
        labels = self.store.labels[self.valid_rows]
        metric = accuracy(logits, labels)
        if report:
            report(self.fold, step, metric)
        return {"valid_metric": metric, "valid_loss": cross_entropy(logits, labels)}
