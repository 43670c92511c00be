"""Conformer encoder: log-mels or cepstra (B, T, F) in, frames (B, T, d_model) out.

The architecture and the parameters (names, shapes, initialisation) are those of torchaudio.models.Conformer, so a
state dict fits both ways; the padding, which there leaks through the depthwise convolution and the batch norm, is
kept out here.
"""

import torch
from torch import Tensor, nn

from src.model.layers import Conv1d, Dropout, Linear, SelfAttention, SiLU
from src.model.masking import zero_padding
from src.model.norms import MaskedBatchNorm1d, MaskedGroupNorm


class FeedForwardModule(nn.Module):
    """Layer norm, linear, swish, linear; the residual takes half of it (Gulati et al., 2020)."""

    def __init__(self, d_model: int, feed_forward_dim: int, dropout: float) -> None:
        super().__init__()
        self.sequential = nn.Sequential(
            nn.LayerNorm(d_model),
            Linear(d_model, feed_forward_dim),
            SiLU(),
            Dropout(dropout),
            Linear(feed_forward_dim, d_model),
            Dropout(dropout),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Return frames (B, T, d_model)."""
        return self.sequential(frames)


class ConvolutionModule(nn.Module):
    """Layer norm, gated pointwise, depthwise, norm, swish and pointwise convolution (Gulati et al., 2020)."""

    def __init__(self, d_model: int, kernel_size: int, dropout: float, norm: str) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(d_model)
        self.sequential = nn.ModuleList([
            Conv1d(d_model, 2 * d_model, 1),
            nn.GLU(dim=2),
            Conv1d(d_model, d_model, kernel_size, groups=d_model),
            MaskedGroupNorm(d_model) if norm == "group" else MaskedBatchNorm1d(d_model),
            SiLU(),
            Conv1d(d_model, d_model, 1),
            Dropout(dropout),
        ])

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return frames (B, T, d_model)."""
        expand, gate, depthwise, norm, swish, contract, dropout = self.sequential
        hidden = depthwise(gate(expand(self.layer_norm(frames))), lengths)
        return dropout(contract(swish(norm(hidden, lengths))))


class ConformerLayer(nn.Module):
    """Half feed-forward, self-attention, convolution, half feed-forward, layer norm (Gulati et al., 2020).

    As in torchaudio, attention has no relative positions; the convolution alone tells the order of frames.
    """

    def __init__(self, d_model: int, num_heads: int, feed_forward_dim: int, kernel_size: int, dropout: float,
                 norm: str) -> None:
        super().__init__()
        self.ffn1 = FeedForwardModule(d_model, feed_forward_dim, dropout)
        self.self_attn_layer_norm = nn.LayerNorm(d_model)
        self.self_attn = SelfAttention(d_model, num_heads, dropout)
        self.self_attn_dropout = Dropout(dropout)
        self.conv_module = ConvolutionModule(d_model, kernel_size, dropout, norm)
        self.ffn2 = FeedForwardModule(d_model, feed_forward_dim, dropout)
        self.final_layer_norm = nn.LayerNorm(d_model)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return frames (B, T, d_model)."""
        frames = torch.add(frames, self.ffn1(frames), alpha=0.5)
        frames = frames + self.self_attn_dropout(self.self_attn(self.self_attn_layer_norm(frames), lengths))
        frames = frames + self.conv_module(frames, lengths)
        frames = torch.add(frames, self.ffn2(frames), alpha=0.5)
        return self.final_layer_norm(frames)


class Conformer(nn.Module):
    """Project frames to d_model and pass them through Conformer layers (Gulati et al., 2020).

    The defaults are those of the published solution that reached 0.88125 (three layers). kernel_size is an odd number
    of frames. norm of the convolution module: "batch" or "group"; anything else raises ValueError.
    """

    takes = "frames"

    def __init__(self, input_dim: int, *, d_model: int = 256, num_layers: int = 3, num_heads: int = 4,
                 feed_forward_dim: int = 512, kernel_size: int = 31, dropout: float = 0.3, norm: str = "batch") -> None:
        super().__init__()
        if norm not in ("batch", "group"):
            raise ValueError(f"norm '{norm}' is neither 'batch' nor 'group'")
        self.output_dim = d_model
        self.prenet = Linear(input_dim, d_model)
        self.conformer_layers = nn.ModuleList(
            ConformerLayer(d_model, num_heads, feed_forward_dim, kernel_size, dropout, norm) for _ in range(num_layers))

    def forward(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, T, d_model) and the lengths unchanged."""
        hidden = self.prenet(zero_padding(frames, lengths))
        for layer in self.conformer_layers:
            hidden = layer(hidden, lengths)
        return hidden, lengths


ENCODERS = {"conformer": Conformer}
