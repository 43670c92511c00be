"""Residual network on the spectrogram as a picture: (B, T, F) in, frames (B, ceil(T / 8), channels x bands) out."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.model.layers import Conv2d, ResidualBlock2d
from src.model.masking import strided_lengths, zero_padding
from src.model.norms import MaskedBatchNorm2d


class ResNet34(nn.Module):
    """Run the 34-layer residual network with narrow channels (He et al., 2016; Zeinali et al., 2019).

    Four stages of 3, 4, 6 and 3 blocks, of base_channels times 1, 2, 4 and 8; the last three halve time and bands.
    The first layer is a 3x3 convolution without the pooling of the picture network. base_channels below 8 raise
    ValueError: with 2 to 6, torch 2.11 on a processor without AVX-512 writes beyond its memory in the backward pass.
    """

    takes = "frames"
    NUM_BLOCKS = (3, 4, 6, 3)
    STRIDES = (1, 2, 2, 2)

    def __init__(self, input_dim: int, *, base_channels: int = 32) -> None:
        super().__init__()
        if base_channels < 8:
            raise ValueError(f"base_channels {base_channels} is below 8")
        self.entry = Conv2d(1, base_channels, 3)
        self.entry_norm = MaskedBatchNorm2d(base_channels)
        self.stages = nn.ModuleList()
        channels, bands = base_channels, input_dim
        for stage, (num_blocks, stride) in enumerate(zip(self.NUM_BLOCKS, self.STRIDES)):
            width = base_channels * 2**stage
            blocks = [ResidualBlock2d(channels, width, (stride, stride))]
            blocks += [ResidualBlock2d(width, width, (1, 1)) for _ in range(num_blocks - 1)]
            self.stages.append(nn.ModuleList(blocks))
            channels, bands = width, -(-bands // stride)
        self.output_dim = channels * bands

    def forward(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, ceil(T / 8), output_dim) and their lengths."""
        maps = self.entry(zero_padding(frames, lengths).unsqueeze(1))
        maps = maps.contiguous(memory_format=torch.channels_last)  # faster on CPU, and on GPU in bfloat16
        maps = F.relu(self.entry_norm(maps, lengths), inplace=True)
        for stride, (first, *others) in zip(self.STRIDES, self.stages):
            strided = strided_lengths(lengths, kernel=3, stride=stride, padding=1)
            maps = first(maps, lengths, strided)
            lengths = strided
            for block in others:
                maps = block(maps, lengths, lengths)
        return maps.transpose(1, 2).flatten(2), lengths


ENCODERS = {"resnet34": ResNet34}
