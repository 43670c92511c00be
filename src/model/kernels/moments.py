"""Statistics over time in few passes, and batch statistics under a mask that nothing waits for."""

from typing import Any

import torch
from torch import Tensor, nn


def gathers_frames(frames: Tensor) -> bool:
    """Return whether valid frames are cheaply gathered: not on a GPU, which would wait to learn how many they are."""
    return frames.device.type == "cpu" and not torch.compiler.is_compiling()


def batch_norm_under_mask(norm: nn.BatchNorm1d | nn.BatchNorm2d, values: Tensor, mask: Tensor) -> Tensor:
    """Return `values` (..., C) in training mode of `norm`, with the statistics of those under `mask` (..., 1).

    The running statistics move as torch's own do. Every shape is known beforehand and nothing waits for the device.
    """
    exact = values.float().masked_fill(~mask, 0.0)
    spread, mean = torch.var_mean(exact, tuple(range(values.dim() - 1)), correction=0)  # zeros of padding among them
    count = mask.sum() * (values[..., :1].numel() // mask.numel())
    weight = (values[..., 0].numel() / count).float()
    square, mean = (spread + mean.square()) * weight, mean * weight
    variance = (square - mean.square()).clamp_min(0.0)
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1).clamp_min(1)), norm.momentum)
    scale = torch.rsqrt(variance + norm.eps) * norm.weight
    return torch.addcmul(norm.bias - mean * scale, exact, scale).to(values.dtype)


VARIANCE_FLOOR = 1e-5  # keeps the root and its gradient finite where frames do not vary, as in a single frame


class Moments(torch.autograd.Function):
    """Mean and standard deviation (B, D) of float32 frames (B, T, D) over time, in few passes over them.

    weighted_statistics makes twenty passes forward and backward, and on a CPU each costs what memory does: a quarter of
    the ECAPA-TDNN's step where two train side by side. Here there are three forward and one backward.
    """

    @staticmethod
    def forward(ctx: Any, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation."""
        mean = frames.mean(1)
        variance = (frames - mean[:, None]).square_().mean(1)
        deviation = variance.clamp_min(VARIANCE_FLOOR).sqrt()
        ctx.save_for_backward(frames, mean, variance, deviation)
        return mean, deviation

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_deviation: Tensor) -> Tensor:
        """Return the gradient (B, T, D) of the frames: linear in them."""
        frames, mean, variance, deviation = ctx.saved_tensors
        slope = (grad_deviation / deviation).masked_fill_(variance < VARIANCE_FLOOR, 0.0) / frames.shape[1]
        return torch.addcmul((grad_mean / frames.shape[1] - slope * mean)[:, None], frames, slope[:, None])
