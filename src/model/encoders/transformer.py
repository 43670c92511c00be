"""Transformer encoder of the course's sample: log-mels or cepstra (B, T, F) in, frames (B, T, d_model) out."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.model.kernels.attention import attend
from src.model.kernels.dense import linear, linear_relu, product_dtype
from src.model.layers import Dropout, Linear, SelfAttention
from src.model.masking import zero_padding


class TransformerLayer(nn.Module):
    """Encoder layer with the parameters and the result of nn.TransformerEncoderLayer (Vaswani et al., 2017)."""

    def __init__(self, d_model: int, num_heads: int, feed_forward_dim: int, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.self_attn = SelfAttention(d_model, num_heads, dropout)
        self.linear1 = Linear(d_model, feed_forward_dim)
        self.linear2 = Linear(feed_forward_dim, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return frames (B, T, d_model)."""
        if self.norm_first:
            frames = frames + self.dropout(self.self_attn(self.norm1(frames), lengths))
            return frames + self._feed_forward(self.norm2(frames))
        return self.after_attention(frames + self.dropout(self.self_attn(frames, lengths)))

    def after_attention(self, frames: Tensor) -> Tensor:
        """Return what a post-norm layer makes of frames (B, T, d_model) plus their attention."""
        frames = self.norm1(frames)
        return self.norm2(frames + self._feed_forward(frames))

    def _feed_forward(self, frames: Tensor) -> Tensor:
        hidden = linear_relu(frames, self.linear1.weight, self.linear1.bias)
        return self.dropout(self.linear2(self.dropout(hidden)))


def project_and_attend(features: Tensor, lengths: Tensor | None, prenet: Linear, attention: SelfAttention) -> Tensor:
    """Return hidden + attention(hidden) (B, T, d_model), hidden = prenet(features), of features (B, T, F): inference.

    Query q, key k and value are linear in the features, so that the key's projection can go over to the query, whose
    product is then taken with the features themselves (q . K y = (K^T q) . y), and the sums of features under the
    weights are projected once, together with `hidden`. For the course's sample that is 12,800 multiplications a frame
    in place of 28,800, beside those of the weights. What all scores of a query share falls out of their softmax;
    features less their mean keep the rest small.
    """
    dtype = product_dtype(features)
    with torch.autocast("cpu", enabled=False):
        centre, parts = features.mean((0, 1)), (3, attention.num_heads, -1)
        offset = F.linear(centre, prenet.weight, prenet.bias)
        query, key, value = (attention.in_proj_weight @ prenet.weight).unflatten(0, parts)  # (heads, dim, F) each
        asked, _, given = F.linear(offset, attention.in_proj_weight, attention.in_proj_bias).unflatten(0, parts)
        turned = key.transpose(1, 2) * (key.shape[2] / key.shape[1]) ** 0.5  # `attend` takes F for dim
        ask_weight, ask_bias = (turned @ query).flatten(0, 1), (turned @ asked[..., None]).flatten()
        back = torch.einsum("ohd,hdf->ohf", attention.out_proj.weight.unflatten(1, parts[1:]), value).flatten(1)
        back_weight = torch.cat([back, prenet.weight], 1)
        back_bias = offset + F.linear(given.flatten(), attention.out_proj.weight, attention.out_proj.bias)
        features = (features - centre).to(dtype)
    queries = linear(features, ask_weight, ask_bias).unflatten(2, parts[1:])
    keys = features[:, None]  # of all heads, whose queries thus can be those of one
    attended = attend(queries.flatten(1, 2)[:, None], keys, keys, lengths, per_frame=attention.num_heads)
    attended = attended.view_as(queries).flatten(2)
    return linear(torch.cat([attended, features], 2), back_weight, back_bias)


def sinusoidal_positions(num_frames: int, dim: int, device: torch.device) -> Tensor:
    """Return (num_frames, dim) sines and cosines of the frame's index (Vaswani et al., 2017); dim may be odd."""
    rates = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(10000.0) / dim))
    angles = torch.arange(num_frames, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :dim]


class Transformer(nn.Module):
    """Project frames to d_model and pass them through a stack of Transformer layers (Vaswani et al., 2017).

    The defaults are the course's sample: one post-norm layer, no positions. Pre-norm (norm_first) ends in one more
    layer norm. positional: "none" or "sinusoidal"; anything else raises ValueError.
    """

    takes = "frames"

    def __init__(self, input_dim: int, *, d_model: int = 80, num_layers: int = 1, num_heads: int = 2,
                 feed_forward_dim: int = 256, dropout: float = 0.1, norm_first: bool = False,
                 positional: str = "none") -> None:
        super().__init__()
        if positional not in ("none", "sinusoidal"):
            raise ValueError(f"positional '{positional}' is neither 'none' nor 'sinusoidal'")
        self.output_dim = d_model
        self.positional = positional
        self.prenet = Linear(input_dim, d_model)
        self.layers = nn.ModuleList(TransformerLayer(d_model, num_heads, feed_forward_dim, dropout, norm_first)
                                    for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model) if norm_first else nn.Identity()

    def forward(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, T, d_model) and the lengths unchanged."""
        frames, layers = zero_padding(frames, lengths), iter(self.layers)
        if self._is_folded(frames):
            first = next(layers)
            hidden = first.after_attention(project_and_attend(frames, lengths, self.prenet, first.self_attn))
        else:
            hidden = self.prenet(frames)
        if self.positional == "sinusoidal":
            hidden = hidden + sinusoidal_positions(hidden.shape[1], hidden.shape[2], hidden.device)
        for layer in layers:
            hidden = layer(hidden, lengths)
        return self.norm(hidden), lengths

    def _is_folded(self, frames: Tensor) -> bool:
        """Return whether the first layer is quicker on the features themselves, which only inference on a CPU asks."""
        first = self.layers[0]
        head_dim = first.self_attn.out_proj.in_features // first.self_attn.num_heads
        is_inferring = frames.device.type == "cpu" and not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        return (is_inferring and not self.training and self.positional == "none" and not first.norm_first
                and frames.shape[2] <= head_dim)


ENCODERS = {"transformer": Transformer}
