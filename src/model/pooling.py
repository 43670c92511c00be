"""Pooling: an encoder's frames (B, T, D) and their lengths in, one vector (B, output_dim) an utterance out.

Padded frames never count. Moments over time are taken in float32, whatever autocast makes of the frames.
"""

import torch
from torch import Tensor, nn

from src.model.kernels.moments import VARIANCE_FLOOR, Moments
from src.model.masking import masked_mean, valid_mask, zero_padding


def weighted_statistics(frames: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (B, D) of frames (B, T, D) under weights (B, T, 1 or D) that sum to one."""
    mean = (weights * frames).sum(1)
    variance = (weights * (frames - mean[:, None]).square()).sum(1)
    return mean, variance.clamp_min(VARIANCE_FLOOR).sqrt()


def uniform_weights(frames: Tensor, lengths: Tensor | None) -> Tensor:
    """Return (B, T, 1) float32 weights, equal on valid frames and zero on padding."""
    mask = valid_mask(lengths, frames.shape[1])
    if mask is None:
        return torch.full((len(frames), frames.shape[1], 1), 1.0 / frames.shape[1], device=frames.device)
    return (mask / lengths[:, None])[..., None]


def softmax_over_time(scores: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the float32 softmax of scores (B, T, ...) over valid frames."""
    mask = valid_mask(lengths, scores.shape[1])
    if mask is not None:
        scores = scores.masked_fill(~mask[..., None], float("-inf"))
    return scores.float().softmax(1)


class MeanPooling(nn.Module):
    """Average the frames, as the course's sample does."""

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.output_dim = input_dim

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return (B, D)."""
        return masked_mean(frames.float(), lengths)


class MaxPooling(nn.Module):
    """Take each channel's largest value over time."""

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.output_dim = input_dim

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return (B, D)."""
        mask = valid_mask(lengths, frames.shape[1])
        if mask is not None:
            frames = frames.masked_fill(~mask[..., None], float("-inf"))
        return frames.amax(1).float()


class SelfAttentionPooling(nn.Module):
    """Average the frames under a softmax over one learnt score a frame (Safari et al., 2020)."""

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.output_dim = input_dim
        self.attention = nn.Linear(input_dim, 1, bias=False)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return (B, D)."""
        weights = softmax_over_time(self.attention(frames), lengths)
        return (weights * zero_padding(frames, lengths)).sum(1)


class SelfAttentionMaxPooling(nn.Module):
    """Concatenate self-attention pooling and max pooling."""

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.output_dim = 2 * input_dim
        self.self_attention = SelfAttentionPooling(input_dim)
        self.max = MaxPooling(input_dim)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return (B, 2 D)."""
        return torch.cat([self.self_attention(frames, lengths), self.max(frames, lengths)], 1)


class StatisticsPooling(nn.Module):
    """Concatenate mean and standard deviation over time (Snyder et al., 2018); the deviation divides by T."""

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.output_dim = 2 * input_dim

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return (B, 2 D)."""
        frames = zero_padding(frames.float(), lengths)
        is_cpu_step = torch.is_grad_enabled() and frames.device.type == "cpu" and not torch.compiler.is_compiling()
        if lengths is None and is_cpu_step:
            return torch.cat(Moments.apply(frames), 1)
        return torch.cat(weighted_statistics(frames, uniform_weights(frames, lengths)), 1)


class AttentiveStatisticsPooling(nn.Module):
    """Concatenate mean and standard deviation under attention over time (Okabe et al., 2018).

    Each channel has its own attention, and with global_context its scores see the utterance's mean and deviation
    beside the frame (Desplanques et al., 2020). attention_dim: hidden units of the scores.
    """

    def __init__(self, input_dim: int, *, attention_dim: int = 128, global_context: bool = True) -> None:
        super().__init__()
        self.output_dim = 2 * input_dim
        self.hidden = nn.Linear(input_dim, attention_dim)
        # A layer of its own: the context is the same in every frame, so it is projected once an utterance.
        self.context = nn.Linear(2 * input_dim, attention_dim, bias=False) if global_context else None
        self.scores = nn.Linear(attention_dim, input_dim)

    def forward(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """Return (B, 2 D)."""
        frames = zero_padding(frames, lengths)
        hidden = self.hidden(frames)
        frames = frames.float()
        if self.context is not None:
            statistics = weighted_statistics(frames, uniform_weights(frames, lengths))
            hidden = hidden + self.context(torch.cat(statistics, 1))[:, None]
        weights = softmax_over_time(self.scores(hidden.tanh()), lengths)
        return torch.cat(weighted_statistics(frames, weights), 1)


POOLINGS = {
    "mean": MeanPooling,
    "max": MaxPooling,
    "self_attention": SelfAttentionPooling,
    "self_attention_max": SelfAttentionMaxPooling,
    "statistics": StatisticsPooling,
    "attentive_statistics": AttentiveStatisticsPooling,
}
