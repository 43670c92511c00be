"""Transformer encoder of the course's sample: log-mels or cepstra (B, T, F) in, frames (B, T, d_model) out."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.encoders.layers import Dropout, Linear, SelfAttention
from src.masking import zero_padding


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
        frames = self.norm1(frames + self.dropout(self.self_attn(frames, lengths)))
        return self.norm2(frames + self._feed_forward(frames))

    def _feed_forward(self, frames: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(F.relu(self.linear1(frames)))))


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
        hidden = self.prenet(zero_padding(frames, lengths))
        if self.positional == "sinusoidal":
            hidden = hidden + sinusoidal_positions(hidden.shape[1], hidden.shape[2], hidden.device)
        for layer in self.layers:
            hidden = layer(hidden, lengths)
        return self.norm(hidden), lengths


ENCODERS = {"transformer": Transformer}
