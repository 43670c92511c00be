"""Augmentations of waveforms that stand for another session, with real rooms and with phases.

(B, N) samples in [-1, 1] go in and come out, under the contract of augment.py. The log-mels' counterparts, quicker and
without phases, are in augment_session.py.
"""

import math

import torch
from torch import Generator, Tensor

from src.acoustics import (
    DECIBEL,
    F_MIN,
    SAMPLE_RATE,
    TINY,
    draw_band,
    draw_equaliser,
    draw_noise,
    draw_talker,
    mel_position,
    ratio,
    uniform,
    whole,
)
from src.augment import Augmentation
from src.masking import masked_mean, zero_padding
from src.rooms import draw_rooms

GRID = 128  # points over mel at which a gain is drawn before it is spread over FFT bins


class SessionAugmentation(Augmentation):
    """Base of these: says what they fit."""

    kinds = ("waveform",)


def fft_size(num_samples: int) -> int:
    """Return the smallest quick FFT length that holds `num_samples`: 2, 3, 5, 9 or 15 times a power of two."""
    return min(odd << max(0, math.ceil(math.log2(num_samples / odd))) for odd in (2, 3, 5, 9, 15))


def grid_hertz(device: torch.device) -> Tensor:
    """Return (GRID,) frequencies in Hz, even on the mel scale from F_MIN to half the sample rate."""
    low, high = (math.log1p(edge / 700) for edge in (F_MIN, SAMPLE_RATE / 2))
    return 700 * torch.expm1(torch.linspace(low, high, GRID, device=device))


def spread(log_gain: Tensor, num_bins: int) -> Tensor:
    """Return amplitudes (B, num_bins) at FFT bins from log power gains (B, GRID) on the mel grid."""
    hertz = torch.linspace(0, SAMPLE_RATE / 2, num_bins, device=log_gain.device)
    place = (mel_position(hertz) * (GRID - 1)).clamp(0, GRID - 1)
    before = place.long().clamp_max(GRID - 2)
    return (0.5 * torch.lerp(log_gain[:, before], log_gain[:, before + 1], place - before)).exp()


def filtered(waveforms: Tensor, log_gain: Tensor) -> Tensor:
    """Return waveforms (B, N) through zero-phase filters with log power gains (B, GRID)."""
    num_samples = waveforms.shape[1]
    size = fft_size(num_samples + 1024)  # room for the filter's ringing, which would wrap around
    spectrum = torch.fft.rfft(waveforms, n=size)
    return torch.fft.irfft(spectrum * spread(log_gain, spectrum.shape[1]), n=size)[:, :num_samples]


def mean_square(waveforms: Tensor, lengths: Tensor | None) -> Tensor:
    """Return (B, 1): the mean power of each item's valid samples."""
    return masked_mean(waveforms.square()[:, :, None], lengths)


def at_snr(waveforms: Tensor, noise: Tensor, lengths: Tensor | None, snr: Tensor) -> Tensor:
    """Return waveforms (B, N) with noise (B, N) scaled to the power ratio `snr` (B, 1) over valid samples."""
    noise = zero_padding(noise, lengths)
    power = mean_square(waveforms, lengths) / snr / mean_square(noise, lengths).clamp_min(TINY)
    return waveforms + noise * power.sqrt()


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


class WaveformEqualiser(SessionAugmentation):
    """Another microphone: a random smooth gain over frequency, without delay.

    curve_db: standard deviation of a smooth curve of six cosines over mel.
    num_bells, bell_db: how many bells of random place and width, and their largest height.
    max_db: bound of the whole gain.
    """

    def __init__(
        self, curve_db: float = 2.5, num_bells: int = 2, bell_db: float = 6.0, max_db: float = 15.0, prob: float = 1.0
    ) -> None:
        super().__init__(prob)
        if max_db <= 0:
            raise ValueError(f"max_db = {max_db} is not above 0")
        self.settings = curve_db, num_bells, bell_db, max_db

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item through a gain of its own."""
        return filtered(inputs, draw_equaliser(len(inputs), grid_hertz(inputs.device), *self.settings, generator))


class WaveformBandLimit(SessionAugmentation):
    """A narrow channel: a telephone's band, else the low-pass of a codec at a low rate.

    telephone_share: chance of a telephone (200-400 to 3000-3700 Hz at random slopes) instead of a low-pass.
    cut_min_hz, cut_max_hz: range of the low-pass.
    floor_min_db, floor_max_db: range of the white noise that fills the removed bands, relative to the item's power.
    """

    def __init__(
        self,
        telephone_share: float = 0.8,
        cut_min_hz: float = 3000.0,
        cut_max_hz: float = 7000.0,
        floor_min_db: float = -65.0,
        floor_max_db: float = -45.0,
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob, (cut_min_hz, cut_max_hz), (floor_min_db, floor_max_db))
        self.band = telephone_share, cut_min_hz, cut_max_hz
        self.floor_min_db, self.floor_max_db = floor_min_db, floor_max_db

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item through a channel of its own."""
        batch = len(inputs)
        narrow = filtered(inputs, draw_band(batch, grid_hertz(inputs.device), *self.band, generator))
        floor = uniform(generator, self.floor_min_db, self.floor_max_db, (batch, 1))
        noise = torch.randn(inputs.shape, generator=generator, device=inputs.device)
        return at_snr(narrow, noise, lengths, ratio(-floor))


class RoomReverberation(SessionAugmentation):
    """A room's impulse response, from a bank that rooms.py draws once from its seed; the item's power is kept.

    num_rooms: size of the bank. rooms_seed: seed of the bank.
    rt60_min_s, rt60_max_s: range of the time in which a room's sound falls by 60 dB.
    distance_min_m, distance_max_m: range of the distance between talker and microphone.
    """

    def __init__(
        self,
        num_rooms: int = 256,
        rt60_min_s: float = 0.2,
        rt60_max_s: float = 0.9,
        distance_min_m: float = 0.2,
        distance_max_m: float = 1.5,
        rooms_seed: int = 0,
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob, (rt60_min_s, rt60_max_s), (distance_min_m, distance_max_m))
        self.num_rooms, self.rooms_seed = num_rooms, rooms_seed
        self.ranges = rt60_min_s, rt60_max_s, distance_min_m, distance_max_m
        self.bank: Tensor | None = None

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item in a room of its own."""
        if self.bank is None or self.bank.device != inputs.device:
            rooms = draw_rooms(self.num_rooms, *self.ranges, torch.Generator().manual_seed(self.rooms_seed))
            self.bank = rooms[0].to(inputs.device)
        response = self.bank[whole(generator, self.num_rooms, (len(inputs),))]
        size = fft_size(inputs.shape[1] + response.shape[1])
        wet = torch.fft.irfft(torch.fft.rfft(inputs, n=size) * torch.fft.rfft(response, n=size), n=size)
        wet = zero_padding(wet[:, : inputs.shape[1]], lengths)
        return wet * (mean_square(inputs, lengths) / mean_square(wet, lengths).clamp_min(TINY)).sqrt()


class WaveformSession(SessionAugmentation):
    """Another session, whole, as `session` draws it on log-mels: room, microphone, noise or babble, channel.

    prob: share of items that come from another session; the others stay as recorded.
    reverberation_prob, noise_prob, babble_prob, band_prob: chances within such an item; noise and babble exclude each
        other, the microphone is always another.
    level_db: largest change of the level, which is otherwise kept.
    The other settings are those of the parts. Noise has little power below the lowest mel band here, so that its ratio
    is that of `session`.
    """

    def __init__(
        self,
        prob: float = 0.7,
        reverberation_prob: float = 0.3,
        noise_prob: float = 0.22,
        babble_prob: float = 0.18,
        band_prob: float = 0.25,
        curve_db: float = 2.0,
        bell_db: float = 6.0,
        noise_snr_min_db: float = 8.0,
        noise_snr_max_db: float = 28.0,
        babble_snr_min_db: float = 5.0,
        babble_snr_max_db: float = 20.0,
        rt60_min_s: float = 0.2,
        rt60_max_s: float = 0.8,
        telephone_share: float = 0.85,
        level_db: float = 1.5,
    ) -> None:
        super().__init__(prob)
        if noise_prob + babble_prob > 1:
            raise ValueError(f"noise_prob {noise_prob} and babble_prob {babble_prob} add up to more than 1")
        self.noise_prob, self.babble_prob, self.level_db = noise_prob, babble_prob, level_db
        self.room = RoomReverberation(rt60_min_s=rt60_min_s, rt60_max_s=rt60_max_s, prob=reverberation_prob)
        self.microphone = WaveformEqualiser(curve_db, bell_db=bell_db)
        self.noise = WaveformNoise(noise_snr_min_db, noise_snr_max_db)
        self.babble = WaveformBabble(babble_snr_min_db, babble_snr_max_db)
        self.channel = WaveformBandLimit(telephone_share, prob=band_prob)

    def alter(self, inputs: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item from a session of its own."""
        waveforms, _ = self.room(inputs, lengths, generator)
        waveforms, _ = self.microphone(waveforms, lengths, generator)
        which = uniform(generator, 0.0, 1.0, (len(inputs), 1))
        noisy = self.noise.alter(waveforms, lengths, generator)
        babbled = self.babble.alter(waveforms, lengths, generator)
        babbled = torch.where(which > 1 - self.babble_prob, babbled, waveforms)
        waveforms, _ = self.channel(torch.where(which < self.noise_prob, noisy, babbled), lengths, generator)
        gain = uniform(generator, -self.level_db * DECIBEL, self.level_db * DECIBEL, (len(inputs), 1)).exp()
        power = mean_square(inputs, lengths) / mean_square(waveforms, lengths).clamp_min(TINY)
        return waveforms * (gain * power).sqrt()


AUGMENTATIONS = {
    "waveform_noise": WaveformNoise,
    "waveform_babble": WaveformBabble,
    "waveform_equaliser": WaveformEqualiser,
    "waveform_band_limit": WaveformBandLimit,
    "room_reverberation": RoomReverberation,
    "waveform_session": WaveformSession,
}
