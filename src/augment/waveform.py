"""Augmentations of waveforms: (B, N) samples in [-1, 1] go in and come out, under the contract of augment.py.

Speed, pitch, shift and white noise. Lengths stay: speech that ends early begins again at its start, speech that runs on
is cut. Other sessions are in augment_waveform_session.py.
"""

import math
from fractions import Fraction

import torch
import torchaudio
from torch import Generator, Tensor
from torch.nn import functional as F

from src.augment.acoustics import SAMPLE_RATE, whole, wrapped
from src.augment.base import Augmentation
from src.augment.speed import resampled


class WaveformAugmentation(Augmentation):
    """Base of these: says what they fit."""

    kinds = ("waveform",)


class PitchShift(WaveformAugmentation):
    """Pitch moved by whole semitones, duration as it was: a phase vocoder stretches time, resampling takes it back.

    semitones: the shifts drawn from, with equal chances. A shift is made for the whole batch: keep them few. Its ratio
    is the nearest fraction up to 50ths, within 0.12 % of the tempered one, which keeps the resampling quick.
    """

    waits = True  # torch.istft looks at what it divides by

    def __init__(self, semitones: tuple[int, ...] = (-1, 0, 1), prob: float = 1.0) -> None:
        super().__init__(prob)
        self.semitones = semitones

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item at a drawn shift."""
        which = whole(generator, len(self.semitones), (len(inputs), 1))
        window = torch.hann_window(512, device=inputs.device)
        short = max(0, 512 - inputs.shape[1])  # the transform reflects at the ends and needs that much
        spectra = torch.stft(F.pad(inputs, (0, short)), 512, 128, window=window, return_complex=True)
        advance = torch.linspace(0, math.pi * 128, 257, device=inputs.device)[:, None]
        result = inputs
        for index, semitone in enumerate(self.semitones):
            if semitone == 0:
                continue
            step = Fraction(2 ** (semitone / 12)).limit_denominator(50)
            slow = torchaudio.functional.phase_vocoder(spectra, float(1 / step), advance)
            slow = torch.istft(slow, 512, 128, window=window)
            shifted = resampled(slow, step)
            missing = max(0, inputs.shape[1] - shifted.shape[1])
            shifted = F.pad(shifted, (0, missing))[:, : inputs.shape[1]]
            result = torch.where(which == index, shifted, result)
        return result


class CircularShift(WaveformAugmentation):
    """Samples moved to the right, those that leave the end coming in at the start.

    max_s: bound of the shift in seconds.
    """

    def __init__(self, max_s: float = 0.2, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.max_s = max_s

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item moved by a drawn number of samples."""
        shift = whole(generator, max(1, round(self.max_s * SAMPLE_RATE)), (len(inputs), 1))
        return self.apply(inputs, lengths, shift)

    def apply(self, waveforms: Tensor, lengths: Tensor | None, shift: Tensor) -> Tensor:
        """Return waveforms (B, N) moved by `shift` (B, 1) samples."""
        position = torch.arange(waveforms.shape[1], device=waveforms.device) - shift
        return waveforms.gather(1, wrapped(position, lengths, waveforms.shape[1]))


class WhiteNoise(WaveformAugmentation):
    """White noise of a fixed amplitude, whatever the level of the speech.

    amplitude: its standard deviation, full scale being 1.
    """

    def __init__(self, amplitude: float = 0.005, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.amplitude = amplitude

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item with noise added."""
        return inputs + self.amplitude * torch.randn(inputs.shape, generator=generator, device=inputs.device)


AUGMENTATIONS = {
    "circular_shift": CircularShift,
    "pitch_shift": PitchShift,
    "white_noise": WhiteNoise,
}
