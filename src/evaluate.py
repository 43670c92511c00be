"""Logits of whole utterances, in masked batches by length: how validation and the test set are seen."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from src.allocator import keep_large_blocks
from src.config import Infer, Train
from src.model import SpeakerModel
from src.store import Store


def autocast(train: Train) -> torch.autocast:
    """Return the context in which an experiment's forward passes run."""
    return torch.autocast(train.device, dtype=torch.bfloat16, enabled=train.precision == "bfloat16")


@torch.inference_mode()
def predict(model: SpeakerModel, store: Store, rows: np.ndarray, train: Train, infer: Infer) -> np.ndarray:
    """Return logits (N, num_speakers) float32 of the store's `rows` in their order; the model is put in eval mode.

    With infer.crops > 0 they are the mean log-posterior of the whole utterance and of that many evenly spaced crops
    of the training length.
    """
    model.eval()
    keep_large_blocks()
    if len(rows) == 0:
        return np.empty((0, model.num_speakers), np.float32)
    unit = store.hop_length if store.kind == "waveform" else 1  # samples or frames of the store a frame of the model
    order, logits = [], []
    for batch_rows, batch in store.batches(rows, infer.frame_budget * unit):
        batch = batch.to(train.device)
        order.append(batch_rows)
        logits.append(_forward(model, batch.inputs, batch.lengths, train))
    logits = torch.cat(logits)
    position = {row: i for i, row in enumerate(np.concatenate(order).tolist())}
    restored = logits[[position[row] for row in rows.tolist()]]
    if infer.crops:
        restored = _with_crops(model, store, rows, restored, train, infer, unit)
    return restored.cpu().numpy()


def _forward(model: SpeakerModel, inputs: Tensor, lengths: Tensor | None, train: Train) -> Tensor:
    frames, lengths = model.extract(inputs, lengths)
    with autocast(train):
        return model(frames, lengths).float()


def _with_crops(model: SpeakerModel, store: Store, rows: np.ndarray, whole: Tensor, train: Train, infer: Infer,
                unit: int) -> Tensor:
    total = F.log_softmax(whole, 1)
    size = train.crop_frames * unit
    slack = np.maximum(store.num_frames[rows] - size, 0)
    per_batch = max(1, infer.frame_budget // train.crop_frames)
    for k in range(infer.crops):
        starts = (slack * k // max(1, infer.crops - 1)).astype(np.int64)
        parts = []
        for i in range(0, len(rows), per_batch):
            batch = store.crops(rows[i : i + per_batch], starts[i : i + per_batch], size).to(train.device)
            parts.append(_forward(model, batch.inputs, batch.lengths, train))
        total = total + F.log_softmax(torch.cat(parts), 1)
    return total / (1 + infer.crops)

