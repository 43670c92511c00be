"""Scaled dot-product attention where torch's fused kernel is slow."""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from src.model.kernels.dense import dropout
from src.model.masking import valid_mask, zero_padding_

ATTENTION_BLOCK = 4_000_000  # weights at once
BLOCK_FRAMES = 16
COLUMNS = 16  # a product is quickest with a multiple of so many

SMALLEST_SUM = 1e-30  # of a row's weights, far above where bfloat16 loses digits


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
