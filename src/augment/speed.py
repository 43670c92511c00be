"""Speech played faster or slower, pitch with it: copies that may stand for other speakers (Ko et al., 2015).

`Speed` in augment_waveform.py plays waveforms; `MelSpeed` here warps log-mels, for stores that hold nothing else.
"""

import functools
from fractions import Fraction

import torch
import torchaudio
from torch import Generator, Tensor

from src.augment.acoustics import mel_bands, mel_position, uniform, whole, wrapped
from src.augment.base import Augmentation
from src.augment.frames import Tempo
from src.model.masking import zero_padding


class SpeedCopies(Augmentation):
    """Base of these: draws which copy of an item is made.

    factors: the speeds drawn from, with equal chances; the first is 1, as recorded.

    Where altered copies are to be speakers of their own, call `draw`, then `apply`, and give the loss
    label + factor_index * num_speakers: index 0 keeps the label.
    """

    def __init__(self, factors: tuple[float, ...], prob: float) -> None:
        super().__init__(prob)
        if factors[0] != 1.0 or min(factors) <= 0:
            raise ValueError(f"factors = {factors} must be positive and begin with 1.0")
        self.factors = factors

    def __call__(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """Return (inputs, lengths), each item at a drawn speed."""
        return self.apply(inputs, lengths, self.draw(len(inputs), generator)), lengths

    def draw(self, batch: int, generator: Generator) -> Tensor:
        """Return (B,) int64 indices into `factors`; items that `prob` passes over get 0."""
        chosen = uniform(generator, 0.0, 1.0, (batch,)) < self.prob
        return whole(generator, len(self.factors), (batch,)) * chosen

    def apply(self, inputs: Tensor, lengths: Tensor | None, factor_index: Tensor) -> Tensor:
        """Return inputs (B, T, F) or (B, N) at the speeds `factors[factor_index]`, (B,) int64, lengths kept."""
        raise NotImplementedError


class Speed(SpeedCopies):
    """Speed perturbation of waveforms by band-limited interpolation.

    factors: see SpeedCopies.
    """

    kinds = ("waveform",)

    def __init__(self, factors: tuple[float, ...] = (1.0, 0.9, 1.1), prob: float = 1.0) -> None:
        super().__init__(factors, prob)

    def apply(self, waveforms: Tensor, lengths: Tensor | None, factor_index: Tensor) -> Tensor:
        """Return waveforms (B, N) at the speeds `factors[factor_index]`, (B,) int64."""
        result = waveforms
        for index, factor in enumerate(self.factors[1:], start=1):
            speed = Fraction(factor).limit_denominator(100)
            played = resampled(waveforms, speed)
            ends = None if lengths is None else -(-lengths * speed.denominator // speed.numerator)
            position = torch.arange(waveforms.shape[1], device=waveforms.device).expand_as(waveforms)
            played = played.gather(1, wrapped(position, ends, played.shape[1]))
            result = torch.where((factor_index == index)[:, None], zero_padding(played, lengths), result)
        return result


def resampled(waveforms: Tensor, speed: Fraction) -> Tensor:
    """Return waveforms (B, N) played `speed` times as fast: (B, about N / speed)."""
    return resampler(speed, waveforms.device)(waveforms)


@functools.lru_cache(maxsize=16)
def resampler(speed: Fraction, device: torch.device) -> torchaudio.transforms.Resample:
    """Return torchaudio's resampling with its filter, made once, on the device."""
    return torchaudio.transforms.Resample(speed.numerator, speed.denominator, dtype=torch.float32).to(device)


class MelSpeed(SpeedCopies):
    """Speed perturbation of log-mels: bands read at a frequency divided by the factor, frames at a time times it.

    factors: see SpeedCopies. What a slower copy would need from above half the sample rate repeats the top band, and
    constant gains are left to mean normalisation.
    """

    kinds = ("logmel",)

    def __init__(self, factors: tuple[float, ...] = (1.0, 0.9, 1.1), prob: float = 1.0) -> None:
        super().__init__(factors, prob)

    def apply(self, inputs: Tensor, lengths: Tensor | None, factor_index: Tensor) -> Tensor:
        """Return log-mels (B, T, F) at the speeds `factors[factor_index]`, (B,) int64."""
        tempo = torch.ones(len(inputs), 1, device=inputs.device)
        for index, factor in enumerate(self.factors):
            tempo = tempo.masked_fill((factor_index == index)[:, None], factor)
        retimed = Tempo.apply(inputs, lengths, tempo)
        result = inputs
        for index, factor in enumerate(self.factors[1:], start=1):
            warped = retimed @ _warp(inputs.shape[-1], factor, inputs.device)
            if lengths is not None:
                inside = torch.arange(inputs.shape[1], device=inputs.device) < lengths[:, None]
                warped = torch.where(inside[:, :, None], warped, inputs)
            result = torch.where((factor_index == index)[:, None, None], warped, result)
        return result


@functools.lru_cache(maxsize=16)
def _warp(num_mels: int, factor: float, device: torch.device) -> Tensor:
    """Return (F, F): column j interpolates between the bands around band j's centre divided by `factor`."""
    centres = mel_bands(num_mels, device)[0]
    positions = mel_position(centres / factor) * (num_mels + 1) - 1  # centres lie evenly on the mel scale
    positions = positions.clamp(0, num_mels - 1)
    before = positions.long().clamp_max(num_mels - 2)
    share = positions - before
    matrix = torch.zeros(num_mels, num_mels, device=device)
    columns = torch.arange(num_mels, device=device)
    matrix[before, columns] = 1 - share
    matrix[before + 1, columns] += share
    return matrix


AUGMENTATIONS = {"mel_speed": MelSpeed, "speed": Speed}
