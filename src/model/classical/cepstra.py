"""From an utterance's log-mels to the frames that the classical classifiers describe: cepstra and their deltas."""

import math

import torch
from torch import Tensor

DELTA_REACH = 2  # frames on each side of the one whose slope is taken


def describe_frames(frames: Tensor, kind: str, num_cepstra: int, loud_share: float, mean_norm: bool) -> Tensor:
    """Return cepstra and their deltas, (kept frames, 2 C) float32, of one utterance (T, F), T at least 1.

    Log-mels give the cepstra 1 to num_cepstra (as many as their bands allow), without c0, which holds the level, and of
    them the louder `loud_share` of the frames is kept: pauses say little of who speaks. Frames that are cepstra already
    (kind "cepstra") do not tell their level: all of them are kept. mean_norm: subtract the mean over the kept frames.
    """
    frames = frames.float()
    cepstra = dct(frames, num_cepstra) if kind == "logmel" else frames
    described = torch.cat([cepstra, deltas(cepstra)], 1)
    if kind == "logmel":
        described = described[loud_frames(frames, loud_share)]
    return described - described.mean(0) if mean_norm else described


def dct(log_mels: Tensor, num_cepstra: int) -> Tensor:
    """Return (T, min(num_cepstra, F - 1)): coefficients 1 and up of each frame's orthonormal DCT-II over F bands."""
    num_bands = log_mels.shape[1]
    band = torch.arange(num_bands, dtype=torch.float64) + 0.5
    order = torch.arange(1, min(num_cepstra, num_bands - 1) + 1, dtype=torch.float64)
    basis = math.sqrt(2 / num_bands) * torch.cos(math.pi / num_bands * band[:, None] * order)
    return log_mels @ basis.to(log_mels.dtype)


def deltas(frames: Tensor) -> Tensor:
    """Return the slope (T, C) of a line fitted to the frames t - 2 … t + 2; the first and last frame are repeated."""
    num_frames = len(frames)
    at = torch.arange(num_frames)
    slope = torch.zeros_like(frames)
    for step in range(1, DELTA_REACH + 1):
        later, earlier = (at + step).clamp_max(num_frames - 1), (at - step).clamp_min(0)
        slope += step * (frames[later] - frames[earlier])
    return slope / (2 * sum(step**2 for step in range(1, DELTA_REACH + 1)))


def loud_frames(log_mels: Tensor, share: float) -> Tensor:
    """Return the places (N,) of the louder `share` of the frames, in their order, at least one.

    A frame's level is the mean of its log-mels; of equally loud frames the earlier ones are taken.
    """
    num_kept = max(1, round(share * len(log_mels)))
    return log_mels.mean(1).argsort(descending=True, stable=True)[:num_kept].sort().values
