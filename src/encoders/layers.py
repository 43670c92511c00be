"""Building blocks that the encoders share: frames (B, T, C) in and out, the padding guarded by `lengths`.

Everything is batch-first with the channels last, also inside convolutions over time: on two CPU cores (AMD EPYC,
B = 32, T = 128, C = 256, float32, forward and backward) a depthwise convolution of 31 frames takes 8.7 ms instead of
30, a linear layer 256 -> 512 as a 1x1 convolution 8.3 ms instead of 16.3 (oneDNN uses AVX-512 where MKL on AMD does
not), and dropout of (32, 128, 512) 2.8 ms instead of 20. On a GPU and under torch.compile, dropout, linear layers and
attention are torch's own.
"""

import contextlib
import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.masking import MaskedBatchNorm2d, valid_mask, zero_padding, zero_padding_

ATTENTION_BLOCK = 4_000_000  # weights at once
BLOCK_FRAMES = 16
COLUMNS = 16  # a product is quickest with a multiple of so many
BANDED_FRAMES = 512  # beyond which the band matrices of banded_product grow too large
SMALLEST_SUM = 1e-30  # of a row's weights, far above where bfloat16 loses digits


def dropout(values: Tensor, probability: float, training: bool) -> Tensor:
    """Zero each value with `probability` and scale the rest by 1 / (1 - probability) (Srivastava et al., 2014).

    torch draws CPU dropout with one sequential Bernoulli draw a value; here one draw of 64 bits serves four values,
    which rounds the probability to a multiple of 2^-16.
    """
    if not training or probability == 0.0:
        return values
    if values.device.type != "cpu" or torch.compiler.is_compiling() or probability >= 1.0:
        return F.dropout(values, probability)
    words = torch.empty((values.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: values.numel()].view(values.shape)
    keep = bits >= round(probability * 2**16) - 2**15
    return values * keep.to(values.dtype).mul_(1.0 / (1.0 - probability))


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


def linear(frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return frames (B, T, in) times weight (out, in) plus bias (out,), as a 1x1 convolution where that is faster."""
    if frames.device.type != "cpu" or frames.dim() != 3 or torch.compiler.is_compiling():
        return F.linear(frames, weight, bias)
    return F.conv2d(frames.transpose(1, 2).unsqueeze(2), weight[:, :, None, None], bias).squeeze(2).transpose(1, 2)


def product_dtype(frames: Tensor) -> torch.dtype:
    """Return the number type in which a product with `frames` is taken on a CPU here: autocast's, or their own."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else frames.dtype


def linear_relu(frames: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `relu` of `linear`'s: in inference on a CPU by one operation of oneDNN's, which writes the result once."""
    is_fused = frames.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    dtype = product_dtype(frames)
    if not is_fused or not _fuses(dtype):
        return F.relu(linear(frames, weight, bias), inplace=not torch.is_grad_enabled())
    picture, weight, bias = frames.transpose(1, 2).unsqueeze(2).to(dtype), weight.to(dtype), bias.to(dtype)
    fused = torch.ops.mkldnn._convolution_pointwise(picture, weight[:, :, None, None], bias, [0, 0], [1, 1], [1, 1], 1,
                                                    "relu", [], "")
    return fused.squeeze(2).transpose(1, 2)


@functools.cache
def _fuses(dtype: torch.dtype) -> bool:
    """Return whether oneDNN has the convolution with its activation that torch.compile calls too."""
    return torch.backends.mkldnn.is_available() and (
        dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()))


class Linear(nn.Linear):
    """Linear layer over the last dimension of frames (B, T, in)."""

    def forward(self, frames: Tensor) -> Tensor:
        """Return frames (B, T, out)."""
        return linear(frames, self.weight, self.bias)


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


def attend(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None, dropout_p: float = 0.0,
           per_frame: int = 1) -> Tensor:
    """Return scaled dot-product attention of (B, heads, T, dim) tensors to valid frames (Vaswani et al., 2017).

    lengths: of keys and values. per_frame: so many queries, one behind the other, belong to each frame of the keys, and
    what they find in padding may be anything; 0 where the queries are another sequence, of another T.
    torch's fused CPU kernel is slow in bfloat16 but for matrix units (AMX), and its dropout everywhere: a CPU training
    step writes the product out (4 times as fast at T = 128), and so, block by block, does self-attention's inference
    in bfloat16 without such units. Elsewhere the fused kernel runs, which never holds the (T, T) weights.
    """
    is_written_out = query.device.type == "cpu" and not torch.compiler.is_compiling()
    is_inferring = is_written_out and not torch.is_grad_enabled()
    if is_inferring and query.dtype == torch.bfloat16 and per_frame and not has_matrix_units():
        return attend_in_blocks(query, key, value, lengths)
    mask = valid_mask(lengths, key.shape[2])
    mask = mask if mask is None else mask[:, None, None]
    if is_inferring or not is_written_out:
        return F.scaled_dot_product_attention(query, key, value, mask, dropout_p)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return dropout(scores.softmax(3), dropout_p, True) @ value


@functools.cache
def has_matrix_units() -> bool:
    """Return whether this processor multiplies tiles of bfloat16 (AMX)."""
    return torch.cpu.get_capabilities().get("amx_bf16", False)


def attend_in_blocks(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None) -> Tensor:
    """Return what `attend` returns for one query or more a frame of the keys, without dropout.

    It holds at most ATTENTION_BLOCK weights, which stay in the cache. A block is some items of the batch, cut behind
    their longest, or some frames of a long one; sizes are rounded up to BLOCK_FRAMES, for oneDNN compiles each new
    shape. The weights are exponentials whose sum a column of ones beside the values counts: without the row's largest
    score taken off first that costs half as much as softmax. Where a sum leaves the range of the numbers, which takes
    scores beyond 69, the fused kernel does it all again. Keys lie transposed in memory: their product is then a
    quarter faster.
    """
    (batch, heads, num_frames, dim), per_frame = key.shape, query.shape[2] // key.shape[2]
    sizes = lengths.tolist() if lengths is not None else [num_frames] * batch
    values = value.new_ones(batch, heads, num_frames, -(-(dim + 1) // COLUMNS) * COLUMNS)
    values[..., :dim] = value
    zero_padding_(values.transpose(1, 2), lengths)
    rows = batch * heads  # an item's heads one after the other, so that a product takes them as one batch
    queries, keys = query.reshape(rows, -1, dim), key.transpose(2, 3).reshape(rows, dim, num_frames)
    values = values.flatten(0, 1)
    attended = values.new_ones(*queries.shape[:2], values.shape[2])
    per_block = max(1, ATTENTION_BLOCK // (heads * num_frames * queries.shape[1]))
    for first in range(0, batch, per_block):
        own = sizes[first : first + per_block]
        block = slice(first * heads, (first + len(own)) * heads)
        longest = min(-(-max(own) // BLOCK_FRAMES) * BLOCK_FRAMES, num_frames)
        num_queries = longest * per_frame
        step = max(1, ATTENTION_BLOCK // (heads * longest)) if len(own) == 1 else num_queries
        for begin in range(0, num_queries, step):
            frames = slice(begin, min(begin + step, num_queries))
            asking = queries[block, frames]
            weights = asking.new_empty(*asking.shape[:2], longest)
            torch.baddbmm(weights, asking, keys[block, :, :longest], beta=0, alpha=dim**-0.5, out=weights)
            torch.bmm(weights.exp_(), values[block, :longest], out=attended[block, frames])
    attended = attended.unflatten(0, (batch, heads))
    sums = attended[..., dim : dim + 1]
    if (sums > SMALLEST_SUM).logical_and_(sums < float("inf")).all():
        return attended[..., :dim] / sums
    mask = valid_mask(lengths, num_frames)
    mask = mask if mask is None else mask[:, None, None]
    return F.scaled_dot_product_attention(query, key, values.unflatten(0, (batch, heads))[..., :dim], mask)


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
