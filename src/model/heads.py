"""Heads: an embedding (B, D) in, float32 logits (B, num_speakers) out; a margin only where labels are given.

Cosines and margins are computed in float32 with autocast off: scale 30 times a bfloat16 cosine is off by up to 0.1.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST_NORM = 1e-5  # a shorter embedding is not stretched to length one, which keeps its gradient within 1e5
SMALLEST_SINE_SQUARED = 1e-7  # the slope of sqrt(1 - cos^2) is infinite where cos = +-1


class Head(nn.Module):
    """What every head has: a margin that may grow while training, absent here."""

    def set_progress(self, fraction: float) -> None:
        """Tell the head which fraction (0 to 1) of training is done."""


class LinearHead(Head):
    """Map the embedding to logits by one linear layer."""

    def __init__(self, input_dim: int, num_speakers: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_dim, num_speakers)

    def forward(self, embedding: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits (B, num_speakers)."""
        return self.linear(embedding).float()


class MLPHead(Head):
    """Map the embedding to logits by linear, ReLU, linear; hidden_dim 0 takes the embedding's own size."""

    def __init__(self, input_dim: int, num_speakers: int, *, hidden_dim: int = 0) -> None:
        super().__init__()
        self.hidden = nn.Linear(input_dim, hidden_dim or input_dim)
        self.linear = nn.Linear(hidden_dim or input_dim, num_speakers)

    def forward(self, embedding: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits (B, num_speakers)."""
        return self.linear(F.relu(self.hidden(embedding))).float()


class MarginHead(Head):
    """Base of the heads whose logits are scaled cosines between the embedding and a weight for each speaker.

    scale: positive factor of the cosine. margin: handicap of the true speaker. ramp: fraction of training, 0 to 1,
    over which the margin grows linearly from zero. num_subcenters: weights for each speaker, of which the nearest
    counts (Deng et al., 2020).
    """

    def __init__(self, input_dim: int, num_speakers: int, scale: float, margin: float, ramp: float,
                 num_subcenters: int) -> None:
        super().__init__()
        if scale <= 0.0 or margin < 0.0 or not 0.0 <= ramp <= 1.0 or num_subcenters < 1:
            raise ValueError(f"scale {scale} must be positive, margin {margin} not negative, ramp {ramp} within 0 to 1 "
                             f"and num_subcenters {num_subcenters} at least 1")
        self.scale = scale
        self.margin = margin
        self.ramp = ramp
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(num_speakers * num_subcenters, input_dim)))
        self.num_subcenters = num_subcenters
        # A tensor, not a number: torch.compile would recompile at each new value.
        self.register_buffer("current_margin", torch.tensor(0.0 if ramp else margin), persistent=False)

    def set_progress(self, fraction: float) -> None:
        """Set the margin for this fraction (0 to 1) of training."""
        self.current_margin.fill_(self.margin * min(1.0, fraction / self.ramp) if self.ramp else self.margin)

    def forward(self, embedding: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return scaled cosines (B, num_speakers), less the margin at labels (B,) where they are given."""
        with torch.autocast(embedding.device.type, enabled=False):
            cosine = F.linear(F.normalize(embedding.float(), eps=SMALLEST_NORM),
                              F.normalize(self.weight.float(), eps=SMALLEST_NORM))
            if self.num_subcenters > 1:
                cosine = cosine.unflatten(1, (-1, self.num_subcenters)).amax(2)
            if labels is not None:
                true = cosine.gather(1, labels[:, None])
                cosine = cosine.scatter(1, labels[:, None], self.handicap(true))
            return self.scale * cosine

    def handicap(self, cosine: Tensor) -> Tensor:
        """Return the true speaker's cosine with the current margin against it."""
        raise NotImplementedError


class AMSoftmax(MarginHead):
    """Additive-margin softmax: cos(theta) - margin for the true speaker (Wang et al., 2018)."""

    def __init__(self, input_dim: int, num_speakers: int, *, scale: float = 30.0, margin: float = 0.35,
                 ramp: float = 0.0, num_subcenters: int = 1) -> None:
        super().__init__(input_dim, num_speakers, scale, margin, ramp, num_subcenters)

    def handicap(self, cosine: Tensor) -> Tensor:
        """Return cos(theta) - margin."""
        return cosine - self.current_margin


class AAMSoftmax(MarginHead):
    """Additive-angular-margin softmax: cos(theta + margin) for the true speaker (Deng et al., 2019).

    Where theta + margin would pass pi, and the cosine turn back up, the logit goes on falling as
    cos(theta) - margin sin(margin). margin: radians below pi.
    """

    def __init__(self, input_dim: int, num_speakers: int, *, scale: float = 30.0, margin: float = 0.2,
                 ramp: float = 0.0, num_subcenters: int = 1) -> None:
        if margin >= math.pi:
            raise ValueError(f"margin {margin} must be an angle below pi")
        super().__init__(input_dim, num_speakers, scale, margin, ramp, num_subcenters)

    def handicap(self, cosine: Tensor) -> Tensor:
        """Return cos(theta + margin), or its continuation past pi."""
        margin = self.current_margin
        sine = (1.0 - cosine.square()).clamp_min(SMALLEST_SINE_SQUARED).sqrt()
        turned = cosine * margin.cos() - sine * margin.sin()
        return torch.where(cosine > -margin.cos(), turned, cosine - margin * margin.sin())


HEADS = {"linear": LinearHead, "mlp": MLPHead, "am_softmax": AMSoftmax, "aam_softmax": AAMSoftmax}
