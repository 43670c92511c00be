"""Building blocks that the encoders share: frames (B, T, C) in and out, the padding guarded by `lengths`.

Everything is batch-first with the channels last, also inside convolutions over time: on two CPU cores (AMD EPYC,
B = 32, T = 128, C = 256, float32, forward and backward) a depthwise convolution of 31 frames takes 8.7 ms instead of
30, a linear layer 256 -> 512 as a 1x1 convolution 8.3 ms instead of 16.3 (oneDNN uses AVX-512 where MKL on AMD does
not), and dropout of (32, 128, 512) 2.8 ms instead of 20. On a GPU and under torch.compile, dropout, linear layers and
attention are torch's own.
"""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.model.kernels.attention import attend
from src.model.kernels.convolution import BANDED_FRAMES, banded_product
from src.model.kernels.dense import dropout, linear
from src.model.masking import zero_padding
from src.model.norms import MaskedBatchNorm2d


class Dropout(nn.Dropout):
    """Dropout that is quick on CPU too."""

    def forward(self, values: Tensor) -> Tensor:
        """Return `values` of any shape with some of them dropped in training mode."""
        return dropout(values, self.p, self.training)


class SiLU(nn.Module):
    """Swish (Ramachandran et al., 2017), in place where no gradient needs its input: `seed88` infers 6 % faster so."""

    def forward(self, values: Tensor) -> Tensor:
        """Return x sigmoid(x) of values of any shape, which nothing else may use after inference's call."""
        return F.silu(values, inplace=not torch.is_grad_enabled())


class Linear(nn.Linear):
    """Linear layer over the last dimension of frames (B, T, in)."""

    def forward(self, frames: Tensor) -> Tensor:
        """Return frames (B, T, out)."""
        return linear(frames, self.weight, self.bias)


class Conv1d(nn.Conv1d):
    """Convolution over the time of frames (B, T, C), zero-padded to keep T / stride frames; parameters as nn.Conv1d.

    A kernel of an even number of frames raises ValueError, since its output would not be centred on its input.
    """

    def __init__(self, input_dim: int, output_dim: int, kernel_size: int, *, stride: int = 1, dilation: int = 1,
                 groups: int = 1, bias: bool = True) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size} is even; take an odd number of frames")
        super().__init__(input_dim, output_dim, kernel_size, stride, (kernel_size - 1) // 2 * dilation, dilation,
                         groups, bias)

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the convolution of frames (B, T, input_dim), whose padding is taken as silence."""
        if self.kernel_size[0] == self.stride[0] == self.groups == 1:
            return linear(frames, self.weight.squeeze(2), self.bias)
        frames = zero_padding(frames, lengths)
        if self._is_banded(frames):
            product = banded_product(frames, self.weight.squeeze(1))
            return product + self.bias.to(product.dtype)
        picture = frames.transpose(1, 2).unsqueeze(2)
        # oneDNN's depthwise convolution in bfloat16 never returns for some shapes, such as 29 x 538 frames of 144
        # channels on two threads; in float32 it does, and is hardly slower (5.0 ms against 3.5 for 28 x 538).
        is_kept = self.groups == self.in_channels and frames.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        with torch.autocast(frames.device.type, enabled=False) if is_kept else contextlib.nullcontext():
            convolved = F.conv2d(picture.float() if is_kept else picture, self.weight.unsqueeze(2), self.bias,
                                 (1, self.stride[0]), (0, self.padding[0]), (1, self.dilation[0]), self.groups)
        return convolved.squeeze(2).transpose(1, 2).to(picture.dtype)

    def _is_banded(self, frames: Tensor) -> bool:
        """Return whether this is a depthwise convolution in training on a GPU, which torch does slowly."""
        return (frames.device.type == "cuda" and self.training and self.groups == self.in_channels == self.out_channels
                and self.stride == self.dilation == (1,) and frames.shape[1] <= BANDED_FRAMES)


class Conv2d(nn.Conv2d):
    """3x3 or 1x1 convolution over maps (B, C, T, F), zero-padded, without bias; stride is (time, frequency)."""

    def __init__(self, input_dim: int, output_dim: int, kernel_size: int, stride: tuple[int, int] = (1, 1)) -> None:
        super().__init__(input_dim, output_dim, kernel_size, stride, kernel_size // 2, bias=False)

    def forward(self, maps: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the convolution of maps (B, C, T, F), whose padding in time is taken as silence."""
        maps = zero_padding(maps.transpose(1, 2), lengths).transpose(1, 2)
        if self.kernel_size == (1, 1):  # oneDNN's gradient of a strided one of 8 channels writes where it may not
            return F.conv2d(maps[:, :, :: self.stride[0], :: self.stride[1]], self.weight)
        return super().forward(maps)


class ResidualBlock2d(nn.Module):
    """Basic block of a residual network: two 3x3 convolutions and a shortcut (He et al., 2016)."""

    def __init__(self, input_dim: int, output_dim: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = Conv2d(input_dim, output_dim, 3, stride)
        self.norm1 = MaskedBatchNorm2d(output_dim)
        self.conv2 = Conv2d(output_dim, output_dim, 3)
        self.norm2 = MaskedBatchNorm2d(output_dim)
        changes = input_dim != output_dim or stride != (1, 1)
        self.shortcut = Conv2d(input_dim, output_dim, 1, stride) if changes else None
        self.shortcut_norm = MaskedBatchNorm2d(output_dim) if changes else None

    def forward(self, maps: Tensor, lengths: Tensor | None, strided: Tensor | None) -> Tensor:
        """Return maps (B, output_dim, T', F'); `lengths` are valid before the stride, `strided` after it."""
        hidden = F.relu(self.norm1(self.conv1(maps, lengths), strided), inplace=True)
        hidden = self.norm2(self.conv2(hidden, strided), strided)
        if self.shortcut is not None:
            maps = self.shortcut_norm(self.shortcut(maps), strided)
        return F.relu(hidden + maps, inplace=True)


class SelfAttention(nn.Module):
    """Multi-head self-attention over frames (B, T, C); parameters are named and initialised as nn.MultiheadAttention's.

    num_heads that do not divide dim raise ValueError.
    """

    def __init__(self, dim: int, num_heads: int, dropout_p: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads {num_heads} does not divide the model size {dim}")
        self.num_heads = num_heads
        self.dropout_p = dropout_p
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * dim, dim)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return frames (B, T, C) in which each frame has looked at every valid frame of its own utterance."""
        projected = linear(frames, self.in_proj_weight, self.in_proj_bias)
        query, key, value = projected.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = attend(query, key, value, lengths, self.dropout_p if self.training else 0.0)
        return self.out_proj(attended.transpose(1, 2).flatten(2))
