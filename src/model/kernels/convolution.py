"""Depthwise convolution over time as a matmul with band matrices."""

import torch
from torch import Tensor
from torch.nn import functional as F

BANDED_FRAMES = 512  # beyond which the band matrices of banded_product grow too large


def banded_product(frames: Tensor, weight: Tensor) -> Tensor:
    """Return the depthwise convolution of frames (B, T, C) with weight (C, kernel) as a product with band matrices.

    Each channel's T x T matrix has the kernel along its diagonal. That is T / kernel times the operations, but matrix
    units do them, and all three products of a training step are quick ones.
    """
    num_frames, (channels, kernel) = frames.shape[1], weight.shape
    # Rows of T + kernel values, read in rows one shorter, shift the kernel by one from row to row.
    rows = F.pad(weight, (0, num_frames))[:, None].expand(-1, num_frames, -1).reshape(channels, -1)
    bands = rows[:, : num_frames * (num_frames + kernel - 1)].view(channels, num_frames, -1)
    bands = bands[:, :, kernel // 2 : kernel // 2 + num_frames]  # (C, frame out, frame in)
    return torch.bmm(frames.permute(2, 0, 1), bands.transpose(1, 2)).permute(1, 2, 0)
