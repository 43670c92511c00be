"""What a frozen feature encoder makes of every utterance, worked out once before training.

wav2vec 2.0 is fine-tuned with its feature encoder frozen, so each utterance's features are the same at every step; the
seven convolutions that give them cost more than two layers after them do. Goes in: a store of waveforms. Comes
out: a store of features, held in memory, of the same rows.
"""

from dataclasses import replace
from math import prod

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from src.model.encoders.wav2vec2 import STRIDES, Wav2Vec2, frame_lengths
from src.settings.config import Train
from src.store.store import Store
from src.training.evaluate import autocast

SAMPLES_PER_FRAME = prod(STRIDES)
MAX_BYTES = 2 * 2**30  # some 6 h of sound at 512 channels; a larger set is convolved again at every step


def are_frozen(encoder: nn.Module) -> bool:
    """Return whether the encoder's features come from a feature encoder of which nothing learns."""
    if not isinstance(encoder, Wav2Vec2):
        return False
    parts = (encoder.feature_encoder, encoder.feature_norm)
    return not any(parameter.requires_grad for part in parts for parameter in part.parameters())


def of(store: Store, rows: np.ndarray, encoder: nn.Module, train: Train, frame_budget: int,
       max_bytes: int = MAX_BYTES) -> Store | None:
    """Return a store of the normalised features of `rows`, float32 (frames, channels); other rows are empty.

    They lie on the store's device. frame_budget: frames of the store's hop in one padded batch. None where the features
    are not frozen or would take more than max_bytes.
    """
    if not are_frozen(encoder):
        return None
    num_frames = np.zeros_like(store.num_frames)
    num_frames[rows] = frame_lengths(torch.from_numpy(store.num_frames[rows])).numpy()
    offsets = np.cumsum(num_frames) - num_frames
    if 4 * int(num_frames.sum()) * encoder.features_dim > max_bytes:
        return None
    flat = torch.empty(int(num_frames.sum()), encoder.features_dim, device=store.flat.device)
    with torch.inference_mode(), tqdm(total=len(rows), desc="frozen features", unit="utterance", disable=None) as bar:
        for batch_rows, batch in store.batches(rows, frame_budget * store.samples_per_frame):
            with autocast(train):
                features, _ = encoder.features(batch.inputs, batch.lengths)
            for row, item in zip(batch_rows.tolist(), features):
                flat[offsets[row] : offsets[row] + num_frames[row]] = item[: num_frames[row]]
            bar.update(len(batch_rows))
    return replace(store, kind="features", dim=encoder.features_dim, offsets=offsets, num_frames=num_frames, flat=flat)
