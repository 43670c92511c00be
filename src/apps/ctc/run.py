"""A CTC run: a plan and a store in; per fold a model, its curves and its decoded held-out utterances out.

Whole utterances are learnt from; those held out are of speakers who are not heard in training. Writes one folder a fold
(log.csv, curves.png, ctc.pt, decoded.csv, result.json) and result.json when all folds are done. What is finished is
never done again; what was stopped goes on.
"""

import csv
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import GroupKFold
from torch import Tensor

from src.apps.ctc import frozen_features
from src.apps.ctc.ctc import CTC, CTCModel, save_model
from src.apps.ctc.frozen_features import SAMPLES_PER_FRAME
from src.apps.ctc.plan import TASK
from src.apps.curves import draw
from src.apps.task import train_once
from src.base.errors import SettingError
from src.base.files import atomic_open
from src.model import finetune
from src.model.speaker_model import num_parameters
from src.runs.plan import Plan
from src.settings.folds import Folds, num_parts
from src.store.folds import FOLD_SEED
from src.store.store import Store
from src.training.evaluate import autocast
from src.training.loop import Loop, step_seed
from src.training.sampler import CropSampler

ROUNDED_S = 0.5  # training batches are as long as a multiple of this: oneDNN compiles each new shape
WINDOW = 8  # batches that are drawn together and sorted by length, which saves most of the padding
PANELS = {"CTC loss, nats a token": ("loss", "train_loss", "valid_loss"),
          TASK.metric: ("train_token_error_rate", "valid_token_error_rate"), "learning rate": ("lr",)}


def run(plan: Plan, texts: Mapping[str, str]) -> dict[str, Any]:
    """Train every fold of a plan that is not done yet and return the run's result.

    texts: {utt_id: transcript} of the training utterances to use.
    Two processes with the same plan never mix: the second waits. Raises RunError for a loss that is not finite.
    """
    return train_once(plan.run, partial(_train_folds, plan, texts))


def _train_folds(plan: Plan, texts: Mapping[str, str]) -> dict[str, Any]:
    store = Store.open(plan.store_dir)
    plan.run.begin(plan.experiment, plan.digest, store.digest)
    rows = np.array([row for row in store.train_rows if store.utt_ids[row] in texts], np.int64)
    results = []
    for fold, (train_rows, valid_rows) in enumerate(speaker_folds(store, rows, plan.experiment.folds)):
        folder = plan.run.fold(fold)
        if not folder.is_done():
            CTCFold(plan, texts, store, fold, train_rows, valid_rows).run()
        results.append(folder.result())
    total = {key: sum(result[key] for result in results) for key in results[0]}
    return TASK.result_of(
        plan, store.digest, train=total["train_errors"] / total["train_tokens"],
        valid=total["valid_errors"] / total["valid_tokens"] if total["valid_tokens"] else None,
        num_valid=total["num_valid"], params=results[0]["params"], seconds=round(total["seconds"], 2))


def speaker_folds(store: Store, rows: np.ndarray, folds: Folds) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (train_rows, valid_rows) of each fold of `rows`: no speaker, and no group of the store, on both sides.

    folds: as in Store.folds, "all" to hold nothing out. Raises SettingError for too few speakers.
    """
    if folds == "all":
        return [(rows, rows[:0])]
    groups = _joined([(store.speakers[store.labels[row]], store.groups[row]) for row in rows])
    num_folds = num_parts(folds)
    if len(set(groups)) < num_folds:
        raise SettingError(f"folds={folds}: {num_folds} folds need as many speakers with transcripts; there are "
                           f"{len(set(groups))}. Use fewer folds, or folds=all")
    splitter = GroupKFold(num_folds, shuffle=True, random_state=FOLD_SEED)
    parts = [(rows[train], rows[valid]) for train, valid in splitter.split(rows, groups=groups)]
    return parts[:1] if folds == 1 else parts


def _joined(pairs: list[tuple[str, str]]) -> list[str]:
    """Return a name for each (speaker, group): the same for all that a speaker or a group ties together, "" tying none.

    Of those it is the speaker's that comes first in the alphabet.
    """
    speakers, speaker = np.unique([one for one, _ in pairs], return_inverse=True)
    group = np.unique([other or f"\0{one}" for one, other in pairs], return_inverse=True)[1] + len(speakers)
    size = group.max() + 1
    part = connected_components(coo_array((np.ones(len(pairs)), (speaker, group)), (size, size)), directed=False)[1]
    first = {number: name for number, name in zip(part[: len(speakers)][::-1].tolist(), speakers[::-1].tolist())}
    return [first[part[number]] for number in speaker.tolist()]


class CTCFold:
    """One fold of a run: what the loop needs to know of data, texts and model."""

    def __init__(self, plan: Plan, texts: Mapping[str, str], store: Store, fold: int, train_rows: np.ndarray,
                 valid_rows: np.ndarray) -> None:
        self.experiment, self.train = plan.experiment, plan.experiment.train
        self.name = f"{plan.run_id} fold {fold + 1}"
        self.fold, self.folder = fold, plan.run.fold(fold)
        self.train_rows, self.valid_rows = train_rows, valid_rows
        torch.set_num_threads(self.train.threads)
        self.store = store.to(self.train.device)
        self.row_texts = {int(row): texts[store.utt_ids[row]] for row in (*train_rows, *valid_rows)}
        self.task = CTC.of(self.texts(train_rows))
        # A crop as long as the longest utterance is any utterance whole.
        self.sampler = CropSampler(train_rows, store.num_frames[train_rows], store.labels[train_rows],
                                   seed=self.experiment.seed, fold=fold,
                                   crop_frames=int(store.num_frames[train_rows].max()))
        # As many training utterances as are held out, always the same ones, are scored at each validation.
        shuffled = np.random.default_rng(FOLD_SEED).permutation(train_rows)
        self.watched_rows = np.sort(shuffled[: len(valid_rows)])
        torch.manual_seed(step_seed(self.experiment.seed, fold, -1))
        self.model = CTCModel(self.experiment, self.task.num_classes).to(self.train.device)
        if fold == 0:
            print(finetune.describe(self.model, self.experiment.finetune.regime), flush=True)
        features = frozen_features.of(self.store, np.union1d(train_rows, valid_rows), self.model.encoder, self.train,
                                      self.experiment.infer.frame_budget)
        self.source, self.forward, self.unit = self.store, self.model, 1  # unit: samples a frame of the source
        if features:
            self.source, self.forward, self.unit = features, self.model.from_features, SAMPLES_PER_FRAME

    def texts(self, rows: np.ndarray) -> list[str]:
        """Return the transcripts of `rows`."""
        return [self.row_texts[row] for row in rows.tolist()]

    def run(self) -> None:
        """Fit, then save model, curves, held-out texts and counts of errors, the counts last."""
        progress = Loop(
            model=self.model, optim=self.experiment.optim, steps=self.train.steps, loss_of=self.loss_of,
            directory=self.folder.directory, seed=self.experiment.seed, fold=self.fold, device=self.train.device,
            validate=self.validate, valid_every=self.train.valid_every, select=self.train.select,
            description=self.name).run()
        started = time.monotonic()
        save_model(self.folder.directory / "ctc.pt", self.model, self.experiment, self.task)
        draw(self.folder.log_path, self.folder.directory / "curves.png", PANELS, self.name)
        counts: dict[str, Any] = {"params": num_parameters(self.model), "num_valid": len(self.valid_rows)}
        for part, rows in (("train", self.train_rows), ("valid", self.valid_rows)):
            decoded, _ = self.decode(rows)
            counts[f"{part}_errors"], counts[f"{part}_tokens"] = self.task.errors(decoded, self.texts(rows))
        with atomic_open(self.folder.directory / "decoded.csv") as file:  # of the held-out ones, which came last
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("utt_id", "text", "decoded"))
            utt_ids = [self.store.utt_ids[row] for row in self.valid_rows]
            writer.writerows(zip(utt_ids, self.texts(self.valid_rows), decoded))
        seconds = round(progress.seconds + time.monotonic() - started, 2)
        self.folder.finish({**counts, "seconds": seconds})

    def loss_of(self, step: int) -> dict[str, Tensor]:
        """Return the loss of the step's utterances, whole."""
        rows = self.batch_rows(step)
        batch = self.source.utterances(rows, int(ROUNDED_S * self.store.settings["sample_rate"]) // self.unit)
        with autocast(self.train):
            logits, lengths = self.forward(batch.inputs, batch.lengths)
        return {"loss": self.task.losses(logits, lengths, self.texts(rows)).mean()}

    def batch_rows(self, step: int) -> np.ndarray:
        """Return the rows of a step's batch: one of a window of batches sorted by length, taken in shuffled order."""
        size = self.train.batch_size
        window, place = divmod(step, WINDOW)
        rows, _ = self.sampler.take(window * WINDOW * size, WINDOW * size)
        by_length = rows[np.argsort(self.store.num_frames[rows], kind="stable")].reshape(WINDOW, size)
        rng = np.random.default_rng(step_seed(self.experiment.seed, self.fold, window))
        return by_length[rng.permutation(WINDOW)[place]]

    def validate(self, step: int) -> dict[str, float]:
        """Return loss and error rate of the watched training utterances and of the held-out ones."""
        row: dict[str, float] = {}
        for part, rows in (("train", self.watched_rows), ("valid", self.valid_rows)):
            decoded, row[f"{part}_loss"] = self.decode(rows)
            errors, tokens = self.task.errors(decoded, self.texts(rows))
            row[f"{part}_token_error_rate"] = errors / tokens
        return {"valid_metric": -row["valid_token_error_rate"], **row}

    @torch.inference_mode()
    def decode(self, rows: np.ndarray) -> tuple[list[str], float]:
        """Return the decoded texts of `rows`, whole and masked, and their mean loss."""
        self.model.eval()
        decoded: dict[int, str] = {}
        losses = [torch.empty(0)]
        budget = self.experiment.infer.frame_budget * self.store.samples_per_frame // self.unit
        for batch_rows, batch in self.source.batches(rows, budget):
            with autocast(self.train):
                logits, lengths = self.forward(batch.inputs, batch.lengths)
            losses.append(self.task.losses(logits, lengths, self.texts(batch_rows)).cpu())
            decoded |= zip(batch_rows.tolist(), self.task.decode(logits, lengths))
        return [decoded[row] for row in rows.tolist()], float(torch.cat(losses).mean())
