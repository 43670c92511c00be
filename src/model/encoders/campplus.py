"""CAM++ encoder: log-mels or cepstra (B, T, F) in, frames (B, ceil(T / 2), C) out, before pooling."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.model.layers import Conv1d, Conv2d, Linear, ResidualBlock2d
from src.model.masking import masked_mean, strided_lengths, zero_padding
from src.model.norms import MaskedBatchNorm1d, MaskedBatchNorm2d


class FrontConvolution(nn.Module):
    """Front of 2-D convolutions that keeps the frames and leaves an eighth of the bands (Wang et al., 2023)."""

    def __init__(self, input_dim: int, channels: int) -> None:
        super().__init__()
        self.entry = Conv2d(1, channels, 3)
        self.entry_norm = MaskedBatchNorm2d(channels)
        self.blocks = nn.ModuleList(ResidualBlock2d(channels, channels, (1, stride)) for stride in (2, 1, 2, 1))
        self.leave = Conv2d(channels, channels, 3, (1, 2))
        self.leave_norm = MaskedBatchNorm2d(channels)
        self.output_dim = channels * -(-input_dim // 8)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return frames (B, T, output_dim)."""
        maps = self.entry(frames.unsqueeze(1), lengths).contiguous(memory_format=torch.channels_last)
        maps = F.relu(self.entry_norm(maps, lengths), inplace=True)
        for block in self.blocks:
            maps = block(maps, lengths, lengths)
        maps = F.relu(self.leave_norm(self.leave(maps, lengths), lengths), inplace=True)
        return maps.transpose(1, 2).flatten(2)


def segment_mean(frames: Tensor, lengths: Tensor | None, segment_frames: int) -> Tensor:
    """Return (B, T, D): for each frame, the mean over the valid frames of its segment of `segment_frames`."""
    batch_size, num_frames, dim = frames.shape
    num_segments = (num_frames + segment_frames - 1) // segment_frames  # ONNX divides negative numbers towards zero
    padded = F.pad(zero_padding(frames, lengths), (0, 0, 0, num_segments * segment_frames - num_frames))
    sums = padded.view(batch_size, num_segments, segment_frames, dim).sum(2)
    ends = lengths[:, None] if lengths is not None else torch.full((1, 1), num_frames, device=frames.device)
    starts = torch.arange(num_segments, device=frames.device) * segment_frames
    counts = (ends - starts).clamp(1, segment_frames)  # at least 1: a segment of padding alone divides zero by one
    means = sums / counts[..., None].to(frames.dtype)
    return means.repeat_interleave(segment_frames, 1)[:, :num_frames]


class ContextAwareMasking(nn.Module):
    """Convolve, and gate by the mean of the utterance plus that of the segment around (Wang et al., 2023)."""

    SEGMENT_FRAMES = 100
    REDUCTION = 2

    def __init__(self, input_dim: int, output_dim: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.local = Conv1d(input_dim, output_dim, kernel_size, dilation=dilation, bias=False)
        self.squeeze = Linear(input_dim, input_dim // self.REDUCTION)
        self.excite = Linear(input_dim // self.REDUCTION, output_dim)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return frames (B, T, output_dim)."""
        context = masked_mean(frames, lengths)[:, None] + segment_mean(frames, lengths, self.SEGMENT_FRAMES)
        return self.local(frames, lengths) * torch.sigmoid(self.excite(F.relu(self.squeeze(context))))


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 1x1 convolution, batch norm, ReLU, context-aware masking."""

    BOTTLENECK = 4  # times growth_rate

    def __init__(self, input_dim: int, growth_rate: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        bottleneck_dim = self.BOTTLENECK * growth_rate
        self.norm1 = MaskedBatchNorm1d(input_dim)
        self.linear = Linear(input_dim, bottleneck_dim, bias=False)
        self.norm2 = MaskedBatchNorm1d(bottleneck_dim)
        self.masking = ContextAwareMasking(bottleneck_dim, growth_rate, kernel_size, dilation)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return the frames' growth (B, T, growth_rate)."""
        hidden = self.linear(F.relu(self.norm1(frames, lengths), inplace=True))
        return self.masking(F.relu(self.norm2(hidden, lengths), inplace=True), lengths)


class DenseStage(nn.Module):
    """Densely connected layers, then batch norm, ReLU and a 1x1 convolution that halves the channels."""

    def __init__(self, input_dim: int, growth_rate: int, num_layers: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(input_dim + index * growth_rate, growth_rate, kernel_size, dilation)
                                    for index in range(num_layers))
        grown_dim = input_dim + num_layers * growth_rate
        self.output_dim = grown_dim // 2
        self.norm = MaskedBatchNorm1d(grown_dim)
        self.halve = Linear(grown_dim, self.output_dim, bias=False)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return frames (B, T, output_dim)."""
        for layer in self.layers:
            frames = torch.cat([frames, layer(frames, lengths)], 2)
        return self.halve(F.relu(self.norm(frames, lengths), inplace=True))


class CAMPlusPlus(nn.Module):
    """Run a 2-D convolution front and a densely connected TDNN with context-aware masking (Wang et al., 2023).

    blocks: dense layers of each of the three stages; growth_rate: channels that each of them adds; init_channels:
    channels that enter the first stage. Bands that eight does not divide are rounded up. A `blocks` that does not
    have three stages raises ValueError.
    """

    takes = "frames"
    FRONT_CHANNELS = 32
    ENTRY_KERNEL = 5  # frames, of which every second is kept
    KERNELS = (3, 3, 3)  # frames
    DILATIONS = (1, 2, 2)

    def __init__(self, input_dim: int, *, growth_rate: int = 32, init_channels: int = 128,
                 blocks: tuple[int, ...] = (12, 24, 16)) -> None:
        super().__init__()
        if len(blocks) != len(self.KERNELS):
            raise ValueError(f"blocks {blocks} must have {len(self.KERNELS)} stages")
        self.front = FrontConvolution(input_dim, self.FRONT_CHANNELS)
        self.entry = Conv1d(self.front.output_dim, init_channels, self.ENTRY_KERNEL, stride=2, bias=False)
        self.entry_norm = MaskedBatchNorm1d(init_channels)
        self.stages = nn.ModuleList()
        channels = init_channels
        for num_layers, kernel_size, dilation in zip(blocks, self.KERNELS, self.DILATIONS):
            self.stages.append(DenseStage(channels, growth_rate, num_layers, kernel_size, dilation))
            channels = self.stages[-1].output_dim
        self.norm = MaskedBatchNorm1d(channels)
        self.output_dim = channels

    def forward(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, ceil(T / 2), output_dim) and their lengths."""
        hidden = self.entry(self.front(zero_padding(frames, lengths), lengths), lengths)
        lengths = strided_lengths(lengths, self.ENTRY_KERNEL, stride=2, padding=self.ENTRY_KERNEL // 2)
        hidden = F.relu(self.entry_norm(hidden, lengths), inplace=True)
        for stage in self.stages:
            hidden = stage(hidden, lengths)
        return F.relu(self.norm(hidden, lengths), inplace=True), lengths


ENCODERS = {"campplus": CAMPlusPlus}
