"""Augmentations of frames: a batch of crops goes in, the same crops masked, jittered, retimed or relevelled come out.

Called by the training loop after the store and before the model, on the batch's own device. An augmentation is called
as `augmentation(inputs, lengths, generator)` and returns altered inputs with the same shape and lengths: it draws from
the given `torch.Generator` alone, alters each item with chance `prob`, and leaves padding as it is. Nothing waits for
the device and nothing loops over items. Rooms, noise and channels are in augment_session.py; waveforms have
augment_waveform.py and augment_waveform_session.py.
"""

import math

import torch
from torch import Generator, Tensor

from src.augment.acoustics import DECIBEL, POWER_FLOOR, uniform, whole, wrapped
from src.augment.base import Augmentation
from src.model.masking import masked_mean

LOG_FLOOR = math.log(POWER_FLOOR)


class SpecAugment(Augmentation):
    """Masks over bands and over frames (Park et al., 2019), without its time warping.

    freq_masks, freq_width: how many masks over bands, and the widest, in bands.
    time_masks, time_width: the same over frames; a mask also takes at most a fifth of its item (the paper's p = 0.2).
    fill: "mean" puts each band's mean over the item there, "floor" the features' floor.
    """

    kinds = ("logmel",)

    def __init__(
        self,
        freq_masks: int = 2,
        freq_width: int = 8,
        time_masks: int = 2,
        time_width: int = 20,
        fill: str = "mean",
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob)
        if fill not in ("mean", "floor"):
            raise ValueError(f"fill = {fill!r} is neither 'mean' nor 'floor'")
        self.freq_masks, self.freq_width = freq_masks, freq_width
        self.time_masks, self.time_width, self.fill = time_masks, time_width, fill

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item masked."""
        batch, num_frames, num_bands = inputs.shape
        lost = torch.zeros((batch, num_frames, num_bands), dtype=torch.bool, device=inputs.device)
        for _ in range(self.freq_masks):
            widest = torch.full((batch, 1), min(self.freq_width, num_bands), device=inputs.device)
            lost |= _span(num_bands, num_bands, widest, generator)[:, None]
        for _ in range(self.time_masks):
            lost |= _time_span(inputs, lengths, self.time_width, generator)[:, :, None]
        fill = masked_mean(inputs, lengths)[:, None] if self.fill == "mean" else LOG_FLOOR
        return torch.where(lost, fill, inputs)


class TimeMask(Augmentation):
    """Masks over frames only (Park et al., 2019), filled with the item's mean: also for features without a band order.

    time_masks, time_width: how many, and the widest in frames; a mask takes at most a fifth of its item.
    """

    kinds = ("logmel", "cepstra")

    def __init__(self, time_masks: int = 2, time_width: int = 20, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.time_masks, self.time_width = time_masks, time_width

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item masked."""
        lost = torch.zeros(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        for _ in range(self.time_masks):
            lost |= _time_span(inputs, lengths, self.time_width, generator)
        return torch.where(lost[:, :, None], masked_mean(inputs, lengths)[:, None], inputs)


def _time_span(inputs: Tensor, lengths: Tensor | None, width: int, generator: Generator) -> Tensor:
    """Return (B, T) bool, True on one random span of at most `width` frames and a fifth of each item."""
    batch, num_frames = inputs.shape[:2]
    if lengths is None:
        lengths = torch.full((batch,), num_frames, device=inputs.device)
    return _span(num_frames, lengths[:, None], (lengths[:, None] // 5).clamp_max(width), generator)


def _span(size: int, ends: Tensor | int, widest: Tensor, generator: Generator) -> Tensor:
    """Return (B, size) bool, True on one random span before `ends`, of 0 to `widest` (B, 1) cells."""
    width = whole(generator, widest + 1, tuple(widest.shape))
    start = whole(generator, ends - width + 1, tuple(widest.shape))
    cells = torch.arange(size, device=widest.device)
    return (cells >= start) & (cells < start + width)


class Jitter(Augmentation):
    """Gaussian noise on the features themselves.

    std: its standard deviation, in the features' own unit.
    """

    kinds = ("cepstra", "logmel")

    def __init__(self, std: float = 0.1, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.std = std

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item with noise added."""
        return inputs + self.std * torch.randn(inputs.shape, generator=generator, device=inputs.device)


class Tempo(Augmentation):
    """Speech read faster or slower by up to `change`, its spectrum as it was.

    change: largest relative change of tempo, 0 to 0.5. Lengths stay: where faster speech ends early, the item begins
    again at its start; slower speech is cut.
    """

    kinds = ("logmel", "cepstra")

    def __init__(self, change: float = 0.1, prob: float = 1.0) -> None:
        super().__init__(prob)
        if not 0.0 <= change <= 0.5:
            raise ValueError(f"change = {change} is not between 0 and 0.5")
        self.change = change

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item at a tempo of its own."""
        factor = uniform(generator, 1 - self.change, 1 + self.change, (len(inputs), 1))
        return self.apply(inputs, lengths, factor)

    @staticmethod
    def apply(inputs: Tensor, lengths: Tensor | None, factor: Tensor) -> Tensor:
        """Return items (B, T, F) at `factor` (B, 1) times their tempo, by linear interpolation between frames."""
        num_frames = inputs.shape[1]
        position = torch.arange(num_frames, device=inputs.device) * factor
        before = position.floor()
        rows = torch.arange(len(inputs), device=inputs.device)[:, None]
        left = inputs[rows, wrapped(before.long(), lengths, num_frames)]
        right = inputs[rows, wrapped(before.long() + 1, lengths, num_frames)]
        return torch.lerp(left, right, (position - before)[:, :, None])


class Level(Augmentation):
    """Another recording level. Peak normalisation of the store and mean normalisation of the model leave little of it.

    min_db, max_db: range of the gain.
    """

    kinds = ("logmel",)

    def __init__(self, min_db: float = -10.0, max_db: float = 6.0, prob: float = 1.0) -> None:
        super().__init__(prob, (min_db, max_db))
        self.min_db, self.max_db = min_db, max_db

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item at another level."""
        gain = uniform(generator, self.min_db * DECIBEL, self.max_db * DECIBEL, (len(inputs), 1, 1))
        return (inputs + gain).clamp_min(LOG_FLOOR)


AUGMENTATIONS = {
    "spec_augment": SpecAugment,
    "time_mask": TimeMask,
    "jitter": Jitter,
    "tempo": Tempo,
    "level": Level,
}
