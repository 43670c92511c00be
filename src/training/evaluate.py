"""Logits of whole utterances, in masked batches by length: how validation and the test set are seen."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from src.base.machine import keep_large_blocks
from src.model.speaker_model import SpeakerModel
from src.settings.config import Infer, Train
from src.store.batch import Batch
from src.store.store import Store

BATCHES_AT_ONCE = 2  # on a CPU: while one reads or compiles on one processor, the other one keeps the rest busy


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
    parts = store.parts(rows, infer.frame_budget * store.samples_per_frame)
    logits = _logits(model, [partial(store.whole, part) for part in parts], train)
    position = {row: i for i, row in enumerate(np.concatenate(parts).tolist())}
    restored = logits[[position[row] for row in rows.tolist()]]
    if infer.crops:
        restored = _with_crops(model, store, rows, restored, train, infer)
    return restored.cpu().numpy()


def _logits(model: SpeakerModel, reads: list[Callable[[], Batch]], train: Train) -> Tensor:
    """Return the logits of batches in their order; on a CPU BATCHES_AT_ONCE of them share the threads."""

    @torch.inference_mode()
    def forward(read: Callable[[], Batch]) -> Tensor:
        batch = read().to(train.device)
        frames, lengths = model.extract(batch.inputs, batch.lengths)
        with autocast(train):
            return model(frames, lengths).float()

    threads = torch.get_num_threads()
    if train.device != "cpu" or threads < BATCHES_AT_ONCE or len(reads) == 1:
        return torch.cat([forward(read) for read in reads])
    each = threads // BATCHES_AT_ONCE
    try:
        with ThreadPoolExecutor(BATCHES_AT_ONCE, initializer=torch.set_num_threads, initargs=(each,)) as pool:
            return torch.cat(list(pool.map(forward, reads)))
    finally:
        torch.set_num_threads(threads)  # of threads to come, which take the number that was set last


def _with_crops(model: SpeakerModel, store: Store, rows: np.ndarray, whole: Tensor, train: Train,
                infer: Infer) -> Tensor:
    total = F.log_softmax(whole, 1)
    size = train.crop_frames * store.samples_per_frame
    slack = np.maximum(store.num_frames[rows] - size, 0)
    per_batch = max(1, infer.frame_budget // train.crop_frames)
    for k in range(infer.crops):
        starts = (slack * k // max(1, infer.crops - 1)).astype(np.int64)
        reads = [partial(store.crops, rows[i : i + per_batch], starts[i : i + per_batch], size)
                 for i in range(0, len(rows), per_batch)]
        total = total + F.log_softmax(_logits(model, reads, train), 1)
    return total / (1 + infer.crops)
