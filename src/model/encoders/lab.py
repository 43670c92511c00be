"""The lab course's own encoders, written layer by layer: frames (B, T, F) in, frames (B, T, d_model) out.

Seed 001's two tasks: a Transformer with a feed-forward layer of ten units, and the same with a convolution module
beside attention in each layer. The reports give layers, heads, feed-forward size and the parameters of the encoder
stack (154.88 k and 225.72 k); the model size and the kernel are chosen here to come nearest to those counts.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from src.model.kernels.attention import attend
from src.model.layers import Conv1d, Dropout, Linear
from src.model.masking import zero_padding
from src.model.norms import MaskedBatchNorm1d


class MultiHeadSelfAttention(nn.Module):
    """Let each frame gather the values of all valid frames, weighted by query and key (Vaswani et al., 2017).

    num_heads that do not divide d_model raise ValueError.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"num_heads {num_heads} does not divide d_model {d_model}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = Linear(d_model, d_model)
        self.key = Linear(d_model, d_model)
        self.value = Linear(d_model, d_model)
        self.output = Linear(d_model, d_model)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return frames (B, T, d_model)."""
        query, key, value = (self._split(project(frames)) for project in (self.query, self.key, self.value))
        attended = attend(query, key, value, lengths, self.dropout if self.training else 0.0)
        return self.output(attended.transpose(1, 2).flatten(2))

    def _split(self, frames: Tensor) -> Tensor:
        return frames.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, T, d_model / heads)


class FeedForward(nn.Module):
    """Linear, ReLU, linear, on each frame alone."""

    def __init__(self, d_model: int, feed_forward_dim: int, dropout: float) -> None:
        super().__init__()
        self.expand = Linear(d_model, feed_forward_dim)
        self.dropout = Dropout(dropout)
        self.contract = Linear(feed_forward_dim, d_model)

    def forward(self, frames: Tensor) -> Tensor:
        """Return frames (B, T, d_model)."""
        return self.contract(self.dropout(F.relu(self.expand(frames))))


class ConvolutionModule(nn.Module):
    """Gated pointwise, depthwise and pointwise convolution (Gulati et al., 2020)."""

    def __init__(self, d_model: int, kernel_size: int) -> None:
        super().__init__()
        self.gate = Linear(d_model, 2 * d_model)
        self.depthwise = Conv1d(d_model, d_model, kernel_size, groups=d_model)
        self.batch_norm = MaskedBatchNorm1d(d_model)
        self.pointwise = Linear(d_model, d_model)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return frames (B, T, d_model)."""
        hidden = self.depthwise(F.glu(self.gate(frames)), lengths)
        return self.pointwise(F.silu(self.batch_norm(hidden, lengths)))


class LabLayer(nn.Module):
    """Attention, a convolution module when kernel_size > 0, and feed-forward.

    Without convolution each part is normalised after its residual sum, as the course's Transformer is; with it,
    before (Gulati et al., 2020), because the post-norm stack is the one the report saw fail to converge.
    """

    def __init__(self, d_model: int, num_heads: int, feed_forward_dim: int, dropout: float,
                 kernel_size: int = 0) -> None:
        super().__init__()
        self.attention = MultiHeadSelfAttention(d_model, num_heads, dropout)
        self.attention_norm = nn.LayerNorm(d_model)
        self.convolution = ConvolutionModule(d_model, kernel_size) if kernel_size else None
        self.convolution_norm = nn.LayerNorm(d_model) if kernel_size else None
        self.feed_forward = FeedForward(d_model, feed_forward_dim, dropout)
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return frames (B, T, d_model)."""
        if self.convolution is None:
            frames = self.attention_norm(frames + self.dropout(self.attention(frames, lengths)))
            return self.feed_forward_norm(frames + self.dropout(self.feed_forward(frames)))
        frames = frames + self.dropout(self.attention(self.attention_norm(frames), lengths))
        frames = frames + self.dropout(self.convolution(self.convolution_norm(frames), lengths))
        return frames + self.dropout(self.feed_forward(self.feed_forward_norm(frames)))


class LabTransformer(nn.Module):
    """Three own Transformer layers of one head and ten feed-forward units: 154,800 parameters in the stack."""

    takes = "frames"

    def __init__(self, input_dim: int, *, d_model: int = 110, num_layers: int = 3, num_heads: int = 1,
                 feed_forward_dim: int = 10, dropout: float = 0.1) -> None:
        super().__init__()
        self.output_dim = d_model
        self.prenet = Linear(input_dim, d_model)
        self.layers = nn.ModuleList(LabLayer(d_model, num_heads, feed_forward_dim, dropout) for _ in range(num_layers))

    def forward(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, T, d_model) and the lengths unchanged."""
        hidden = self.prenet(zero_padding(frames, lengths))
        for layer in self.layers:
            hidden = layer(hidden, lengths)
        return hidden, lengths


class LabConformer(LabTransformer):
    """The same with a convolution module of 23 frames and d_model 53 in each layer: 225,849 parameters in the stack."""

    def __init__(self, input_dim: int, *, d_model: int = 53, num_layers: int = 3, num_heads: int = 1,
                 feed_forward_dim: int = 500, kernel_size: int = 23, dropout: float = 0.1) -> None:
        super().__init__(input_dim, d_model=d_model, num_layers=0)
        self.layers.extend(LabLayer(d_model, num_heads, feed_forward_dim, dropout, kernel_size)
                           for _ in range(num_layers))


ENCODERS = {"lab_transformer": LabTransformer, "lab_conformer": LabConformer}
