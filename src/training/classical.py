"""One fold of a classical model: fitted to whole utterances at once, with no steps, no crops and no augmentation."""

import time
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from src.base.text import shown_time
from src.model.checkpoint import save_model
from src.model.classical.model import ClassicalModel
from src.model.speaker_model import num_parameters
from src.runs.logits import save_logits
from src.runs.plan import Plan
from src.runs.pseudo_labels import read_pseudo_labels
from src.store.store import Store
from src.training.evaluate import predict


class Utterances(Sequence):
    """Some rows of a store, read and brought to frames one at a time."""

    def __init__(self, store: Store, rows: np.ndarray, model: ClassicalModel) -> None:
        self.store, self.rows, self.model = store, rows, model

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        batch = self.store.utterances([self.rows[index]])
        return self.model.extract(batch.inputs, None)[0][0]


def fit_fold(plan: Plan, store: Store, fold: int, train_rows: np.ndarray, valid_rows: np.ndarray) -> None:
    """Fit one fold of a plan and leave its folder whole: model, logits, and the result last."""
    experiment, folder, began = plan.experiment, plan.run.fold(fold), time.monotonic()
    labels = store.labels
    if experiment.train.pseudo_labels:
        own = None if experiment.folds == "all" else fold
        path, share = plan.pseudo_labels.pseudo_labels_path, experiment.train.pseudo_share
        rows, guessed = read_pseudo_labels(path, own, share)
        labels, train_rows = store.labelled(rows, guessed).labels, np.concatenate([train_rows, rows])
    model = ClassicalModel(experiment, store.kind, len(store.speakers))
    model.fit(Utterances(store, train_rows, model), labels[train_rows], experiment.seed)
    save_model(folder.model_path, model, experiment, store.kind, store.dim, store.speakers)
    valid = predict(model, store, valid_rows, experiment.train, experiment.infer)
    save_logits(folder.valid_path, valid_rows, valid)
    test = predict(model, store, store.test_rows, experiment.train, experiment.infer)
    save_logits(folder.test_path, store.test_rows, test)
    known = predict(model, store, train_rows, experiment.train, experiment.infer)
    seconds = round(time.monotonic() - began, 2)
    folder.finish({
        "params": num_parameters(model) + sum(buffer.numel() for buffer in model.buffers()),
        "train": float((known.argmax(1) == labels[train_rows]).mean()),
        "num_right": int((valid.argmax(1) == store.labels[valid_rows]).sum()),
        "num_valid": len(valid_rows), "best_step": 0, "seconds": seconds})
    print(f"{plan.run_id} fold {fold + 1}: fitted in {shown_time(seconds)}", flush=True)
