"""The contract of every augmentation, and the bases that say what kind of features one acts on."""

import torch
from torch import Generator, Tensor

from src.augment.acoustics import POWER_FLOOR, uniform
from src.base.errors import SettingError
from src.model.masking import valid_mask, zero_padding


class Augmentation:
    """Base of every augmentation.

    prob: chance of each item to be altered, 0 to 1, drawn per item, so that a batch mixes altered and clean ones.
    """

    kinds: tuple[str, ...] = ()  # what it fits: "logmel", "cepstra", "waveform"
    sample_rate: int | None = None  # Hz of the rooms and lines that it imitates, where it imitates any
    waits = False  # whether it asks the device for a value, which no CUDA graph can hold

    def __init__(self, prob: float, *ranges: tuple[float, float]) -> None:
        if not 0.0 <= prob <= 1.0:
            raise ValueError(f"prob = {prob} is not a chance between 0 and 1")
        for low, high in ranges:
            if low > high:
                raise ValueError(f"the range from {low} to {high} runs backwards; give the smaller value as min")
        self.prob = prob

    def __call__(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """Return (inputs, lengths) with the chosen items altered: inputs (B, T, F) or (B, N), lengths (B,) or None."""
        altered = self.alter(inputs, lengths, generator)
        return self.choose(inputs, altered, lengths, generator), lengths

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item altered, in the shape of `inputs`; padded frames may come out as anything."""
        raise NotImplementedError

    def choose(self, inputs: Tensor, altered: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return `altered` on the valid frames of the items that fall under `prob`, `inputs` elsewhere."""
        chosen = uniform(generator, 0.0, 1.0, (len(inputs), 1)) < self.prob
        mask = valid_mask(lengths, inputs.shape[1])
        chosen = chosen if mask is None else chosen & mask
        return torch.where(chosen.view(*chosen.shape, *[1] * (inputs.dim() - 2)), altered, inputs)


def check_kinds(augmentations: list[Augmentation], kind: str) -> None:
    """Raise SettingError when one of `augmentations` does not fit `kind` ("logmel", "cepstra" or "waveform")."""
    for augmentation in augmentations:
        if kind not in augmentation.kinds:
            raise SettingError(
                f"augment: {type(augmentation).__name__} fits {' and '.join(augmentation.kinds)}, and the store holds "
                f"{kind}; take it out of the experiment or set features.store to what it fits"
            )


class PowerAugmentation(Augmentation):
    """Base of those that act on mel power and imitate rooms and lines at their sample rate."""

    kinds = ("logmel",)
    sample_rate = 16000  # Hz, SAMPLE_RATE of acoustics.py

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return the log-mels of `alter_power`."""
        power = zero_padding(inputs.exp(), lengths)
        return self.alter_power(power, lengths, generator).clamp_min(POWER_FLOOR).log()

    def alter_power(self, power: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return (B, T, F) mel power altered; padding of `power` is zero, that of the result anything."""
        raise NotImplementedError

    def mix(self, power: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return mel power with the chosen items altered and padding left at zero."""
        return self.choose(power, self.alter_power(power, lengths, generator), lengths, generator)


class SessionAugmentation(Augmentation):
    """Base of those that act on waveforms and imitate rooms and lines at their sample rate."""

    kinds = ("waveform",)
    sample_rate = 16000  # Hz, SAMPLE_RATE of acoustics.py
