"""Stationary noise and babble, on log-mels and on waveforms."""

import torch
from torch import Generator, Tensor

from src.augment.acoustics import (
    TINY,
    at_snr,
    draw_noise,
    draw_talker,
    fft_size,
    grid_hertz,
    incoherent_sum,
    mean_power,
    mean_square,
    mel_bands,
    ratio,
    spread,
    uniform,
)
from src.augment.base import PowerAugmentation, SessionAugmentation
from src.model.masking import zero_padding


class Noise(PowerAugmentation):
    """Stationary coloured noise, with the fluctuation that noise has in a mel band.

    snr_min_db, snr_max_db: range of the signal-to-noise ratio: mean power of the item over that of the noise, summed
        over bands.
    slope_min_db, slope_max_db: range of the noise's slope, dB an octave (white 0, pink -3, brown -6).
    curve_db: standard deviation of a smooth curve on top.
    """

    def __init__(
        self,
        snr_min_db: float = 5.0,
        snr_max_db: float = 20.0,
        slope_min_db: float = -7.0,
        slope_max_db: float = -1.0,
        curve_db: float = 2.0,
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob, (snr_min_db, snr_max_db), (slope_min_db, slope_max_db))
        self.snr_min_db, self.snr_max_db = snr_min_db, snr_max_db
        self.colour = slope_min_db, slope_max_db, curve_db

    def alter_power(self, power: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item in noise of its own."""
        batch, _, num_mels = power.shape
        centres, width, _ = mel_bands(num_mels, power.device)
        shape = draw_noise(batch, centres, *self.colour, generator).exp() * width
        snr = ratio(uniform(generator, self.snr_min_db, self.snr_max_db, (batch, 1, 1)))
        noise = (shape / shape.sum(-1, keepdim=True))[:, None] * (mean_power(power, lengths) / snr)
        return incoherent_sum(power, noise, generator)


class Babble(PowerAugmentation):
    """Other speakers talking at once: other items of the batch, each from a time and at a level of its own.

    snr_min_db, snr_max_db: range of the signal-to-babble ratio, defined as for `noise`.
    num_talkers: how many items are summed; in a batch of one, the item itself at other times.
    """

    def __init__(
        self, snr_min_db: float = 5.0, snr_max_db: float = 20.0, num_talkers: int = 4, prob: float = 1.0
    ) -> None:
        super().__init__(prob, (snr_min_db, snr_max_db))
        if num_talkers < 1:
            raise ValueError(f"num_talkers = {num_talkers} is less than one")
        self.snr_min_db, self.snr_max_db, self.num_talkers = snr_min_db, snr_max_db, num_talkers

    def alter_power(self, power: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item in babble of its own."""
        batch, num_frames, _ = power.shape
        level = mean_power(power, lengths)
        voices = power / level.clamp_min(TINY)
        noise = torch.zeros_like(power)
        for _ in range(self.num_talkers):
            talker, position = draw_talker(batch, num_frames, lengths, generator)
            noise += voices[talker, position] * ratio(uniform(generator, -6.0, 0.0, (batch, 1, 1)))
        noise = zero_padding(noise, lengths)
        snr = ratio(uniform(generator, self.snr_min_db, self.snr_max_db, (batch, 1, 1)))
        noise *= level / snr / mean_power(noise, lengths).clamp_min(TINY)
        # Powers of talkers are added, not their phases, which has averaged their fluctuation down.
        return incoherent_sum(power, noise, generator, own=1 - 1 / self.num_talkers)


class WaveformNoise(SessionAugmentation):
    """Stationary coloured noise.

    snr_min_db, snr_max_db: range of the signal-to-noise ratio over the item.
    slope_min_db, slope_max_db: range of the noise's slope, dB an octave (white 0, pink -3, brown -6).
    curve_db: standard deviation of a smooth curve on top.
    """

    def __init__(
        self,
        snr_min_db: float = 5.0,
        snr_max_db: float = 20.0,
        slope_min_db: float = -7.0,
        slope_max_db: float = -1.0,
        curve_db: float = 2.0,
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob, (snr_min_db, snr_max_db), (slope_min_db, slope_max_db))
        self.snr_min_db, self.snr_max_db = snr_min_db, snr_max_db
        self.colour = slope_min_db, slope_max_db, curve_db

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item in noise of its own."""
        batch, num_samples = inputs.shape
        size = fft_size(num_samples)
        parts = torch.randn((2, batch, size // 2 + 1), generator=generator, device=inputs.device)
        log_density = draw_noise(batch, grid_hertz(inputs.device), *self.colour, generator)
        spectrum = torch.complex(parts[0], parts[1]) * spread(log_density, parts.shape[2])
        noise = torch.fft.irfft(spectrum, n=size)[:, :num_samples]
        return at_snr(inputs, noise, lengths, ratio(uniform(generator, self.snr_min_db, self.snr_max_db, (batch, 1))))


class WaveformBabble(SessionAugmentation):
    """Other speakers talking at once: other items of the batch, each from a time and at a level of its own.

    snr_min_db, snr_max_db: range of the signal-to-babble ratio over the item.
    num_talkers: how many items are summed; in a batch of one, the item itself at other times.
    """

    def __init__(
        self, snr_min_db: float = 5.0, snr_max_db: float = 20.0, num_talkers: int = 4, prob: float = 1.0
    ) -> None:
        super().__init__(prob, (snr_min_db, snr_max_db))
        if num_talkers < 1:
            raise ValueError(f"num_talkers = {num_talkers} is less than one")
        self.snr_min_db, self.snr_max_db, self.num_talkers = snr_min_db, snr_max_db, num_talkers

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item in babble of its own."""
        batch, num_samples = inputs.shape
        voices = inputs / mean_square(inputs, lengths).clamp_min(TINY).sqrt()
        noise = torch.zeros_like(inputs)
        for _ in range(self.num_talkers):
            talker, position = draw_talker(batch, num_samples, lengths, generator)
            noise += voices[talker, position] * ratio(uniform(generator, -6.0, 0.0, (batch, 1))).sqrt()
        return at_snr(inputs, noise, lengths, ratio(uniform(generator, self.snr_min_db, self.snr_max_db, (batch, 1))))


AUGMENTATIONS = {
    "noise": Noise,
    "babble": Babble,
    "waveform_noise": WaveformNoise,
    "waveform_babble": WaveformBabble,
}
