"""Dropout and linear layers that are quick on a CPU."""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F


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
