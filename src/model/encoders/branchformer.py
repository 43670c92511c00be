"""Branchformer encoder: log-mels or cepstra (B, T, F) in, frames (B, T, d_model) out."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.model.layers import Conv1d, Dropout, Linear, SelfAttention
from src.model.masking import zero_padding


class ConvolutionalGatingMLP(nn.Module):
    """Let a depthwise convolution of one half of the channels gate the other (Sakuma et al., 2022).

    cgmlp_dim is halved between the gate and what it gates: an odd one raises ValueError.
    """

    def __init__(self, d_model: int, cgmlp_dim: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        if cgmlp_dim % 2:
            raise ValueError(f"cgmlp_dim {cgmlp_dim} is odd; one half gates the other")
        half = cgmlp_dim // 2
        self.expand = Linear(d_model, cgmlp_dim)
        self.gate_norm = nn.LayerNorm(half)
        self.gate = Conv1d(half, half, kernel_size, groups=half)
        self.contract = Linear(half, d_model)
        self.dropout = Dropout(dropout)
        nn.init.normal_(self.gate.weight, std=1e-6)  # every gate starts at one
        nn.init.ones_(self.gate.bias)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return frames (B, T, d_model)."""
        content, gate = F.gelu(self.expand(frames)).chunk(2, 2)
        gated = content * self.gate(self.gate_norm(gate), lengths)
        return self.contract(self.dropout(gated))


class BranchformerLayer(nn.Module):
    """Attention beside a convolutional gating MLP, merged by concatenation and a linear layer (Peng et al., 2022)."""

    def __init__(self, d_model: int, num_heads: int, cgmlp_dim: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = SelfAttention(d_model, num_heads, dropout)
        self.cgmlp_norm = nn.LayerNorm(d_model)
        self.cgmlp = ConvolutionalGatingMLP(d_model, cgmlp_dim, kernel_size, dropout)
        self.merge = Linear(2 * d_model, d_model)
        self.dropout = Dropout(dropout)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return frames (B, T, d_model)."""
        far = self.dropout(self.attention(self.attention_norm(frames), lengths))
        near = self.dropout(self.cgmlp(self.cgmlp_norm(frames), lengths))
        return frames + self.dropout(self.merge(torch.cat([far, near], 2)))


class Branchformer(nn.Module):
    """Project frames to d_model and pass them through Branchformer layers and a layer norm (Peng et al., 2022).

    Attention has no relative positions here: the gate's convolution of kernel_size (odd) frames tells their order.
    """

    takes = "frames"

    def __init__(self, input_dim: int, *, d_model: int = 144, num_layers: int = 3, num_heads: int = 4,
                 cgmlp_dim: int = 576, kernel_size: int = 31, dropout: float = 0.1) -> None:
        super().__init__()
        self.output_dim = d_model
        self.prenet = Linear(input_dim, d_model)
        self.layers = nn.ModuleList(BranchformerLayer(d_model, num_heads, cgmlp_dim, kernel_size, dropout)
                                    for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, T, d_model) and the lengths unchanged."""
        hidden = self.prenet(zero_padding(frames, lengths))
        for layer in self.layers:
            hidden = layer(hidden, lengths)
        return self.norm(hidden), lengths


ENCODERS = {"branchformer": Branchformer}
