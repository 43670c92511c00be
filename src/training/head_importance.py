"""How much each attention head of a trained speaker model matters on utterances that it has not seen."""

from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from src.model.attention_heads import measure
from src.model.checkpoint import load_model
from src.settings.config import Experiment
from src.store.batch import Batch
from src.store.store import Store


def measure_model(model_path: Path, store_dir: Path, num_utterances: int) -> tuple[Experiment, np.ndarray]:
    """Return a first fold's experiment and the importance (layers, heads) of its model's heads; see `measure`.

    Measured on the `num_utterances` shortest utterances that the fold held out, or on training utterances where it held
    none out. store_dir: that of the store which the run was trained on.
    """
    store = Store.open(store_dir)
    model, experiment, _ = load_model(model_path)
    rows = store.folds(experiment.folds)[0][1]
    rows = rows if len(rows) else store.train_rows
    rows = rows[np.argsort(store.num_frames[rows], kind="stable")][:num_utterances]

    def loss_of(batch: Batch) -> Tensor:
        frames, lengths = model.extract(batch.inputs, batch.lengths)
        return F.cross_entropy(model(frames, lengths), batch.labels, reduction="none")

    budget = experiment.infer.frame_budget * store.samples_per_frame
    batches = (batch for _, batch in store.batches(rows, budget))
    return experiment, measure(model.encoder, batches, loss_of)
