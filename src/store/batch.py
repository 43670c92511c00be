"""The one thing that travels from a store to a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Utterances or crops, padded to one length.

    inputs: (B, T, F) float32 frames, or (B, N) float32 waveforms in [-1, 1]; padding is zero.
    lengths: (B,) int64 valid frames or samples of each item; None when every item fills the whole length.
    labels: (B,) int64 class of each item; None where unknown.
    """

    inputs: Tensor
    lengths: Tensor | None = None
    labels: Tensor | None = None

    def to(self, device: str) -> Batch:
        """Return the batch on `device`."""
        moved = {name: value.to(device, non_blocking=True) for name in ("inputs", "lengths", "labels")
                 if (value := getattr(self, name)) is not None}
        return replace(self, **moved)
