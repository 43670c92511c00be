"""Augmentations of log-mels that stand for another session: microphone, room, noise, babble, channel, and all in one.

Log-mels go in and come out, under the contract of augment.py. Everything acts on power: exp, operate, log with the
features' floor. Incoherent sums carry the fluctuation that real noise shows in a mel band of a 25 ms frame.
"""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from src.acoustics import (
    HOP_S,
    POWER_FLOOR,
    TINY,
    draw_band,
    draw_equaliser,
    draw_noise,
    draw_talker,
    incoherent_sum,
    mean_power,
    mel_bands,
    ratio,
    uniform,
)
from src.augment import Augmentation
from src.masking import zero_padding


class PowerAugmentation(Augmentation):
    """Base of those that act on mel power."""

    kinds = ("logmel",)

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


class RandomEqualiser(PowerAugmentation):
    """Another microphone: a random smooth gain over frequency, the same at all times of an item.

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

    def alter_power(self, power: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item through a gain of its own."""
        centres = mel_bands(power.shape[-1], power.device)[0]
        return power * draw_equaliser(len(power), centres, *self.settings, generator).exp()[:, None]


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


class Reverberation(PowerAugmentation):
    """A room's decaying tail, by recursion over frames of power: y[t] = x[t] + decay y[t - 1].

    rt60_min_s, rt60_max_s: range of the time in which the tail of the lowest band falls by 60 dB.
    drr_min_db, drr_max_db: range of the direct-to-reverberant ratio; the level of a stationary sound is kept.
    damping: largest share, drawn from 0 on, by which the highest band's time is shorter than the lowest's.
    """

    def __init__(
        self,
        rt60_min_s: float = 0.2,
        rt60_max_s: float = 0.9,
        drr_min_db: float = -2.0,
        drr_max_db: float = 12.0,
        damping: float = 0.5,
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob, (rt60_min_s, rt60_max_s), (drr_min_db, drr_max_db))
        if rt60_min_s <= 0 or not 0.0 <= damping < 1.0:
            raise ValueError(f"rt60_min_s = {rt60_min_s} must be above 0, damping = {damping} from 0 to below 1")
        self.rt60_min_s, self.rt60_max_s = rt60_min_s, rt60_max_s
        self.drr_min_db, self.drr_max_db, self.damping = drr_min_db, drr_max_db, damping

    def alter_power(self, power: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item in a room of its own."""
        batch, _, num_mels = power.shape
        rt60 = uniform(generator, self.rt60_min_s, self.rt60_max_s, (batch, 1))
        damping = uniform(generator, 0.0, self.damping, (batch, 1))
        rt60 = rt60 * (1 - damping * torch.linspace(0, 1, num_mels, device=power.device))
        decay = ratio(-60 * HOP_S / rt60)[:, None]
        tail_share = 1 / (1 + ratio(uniform(generator, self.drr_min_db, self.drr_max_db, (batch, 1, 1))))
        tail = decaying_sum(power, decay) * ((1 - decay) * tail_share)
        # A steady vowel meets its own tail in phase: about half of the fluctuation of unrelated noise remains.
        return incoherent_sum(power * (1 - tail_share), tail, generator, own=0.5, cross=0.5)


def decaying_sum(power: Tensor, decay: Tensor) -> Tensor:
    """Return y[t] = x[t] + decay y[t - 1] over (B, T, F) with `decay` (B, 1, F), doubling the reach at each pass."""
    total, reach = power.clone(), 1
    while reach < power.shape[1]:
        total[:, reach:] += decay * total[:, :-reach]
        decay, reach = decay.square(), 2 * reach
    return total


class BandLimit(PowerAugmentation):
    """A narrow channel: a telephone's band, else the low-pass of a codec at a low rate.

    telephone_share: chance of a telephone (200-400 to 3000-3700 Hz at random slopes) instead of a low-pass.
    cut_min_hz, cut_max_hz: range of the low-pass.
    floor_min_db, floor_max_db: range of what is left in removed bands (window leakage, coding noise), relative to the
        loudest band of the loudest frame; where a frame's loudest band falls by 10 dB, it falls by 6, as measured on
        speech through telephone bands.
    """

    def __init__(
        self,
        telephone_share: float = 0.8,
        cut_min_hz: float = 3000.0,
        cut_max_hz: float = 7000.0,
        floor_min_db: float = -73.0,
        floor_max_db: float = -62.0,
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob, (cut_min_hz, cut_max_hz), (floor_min_db, floor_max_db))
        self.band = telephone_share, cut_min_hz, cut_max_hz
        self.floor_min_db, self.floor_max_db = floor_min_db, floor_max_db

    def alter_power(self, power: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item through a channel of its own."""
        centres = mel_bands(power.shape[-1], power.device)[0]
        gain = draw_band(len(power), centres, *self.band, generator).exp()[:, None]
        loudest = power.amax(-1, keepdim=True)
        floor = ratio(uniform(generator, self.floor_min_db, self.floor_max_db, (len(power), 1, 1)))
        floor = floor * loudest.pow(0.6) * loudest.amax(1, keepdim=True).pow(0.4)
        return incoherent_sum(power * gain, floor, generator)


class Codec(PowerAugmentation):
    """A rough low bit rate: noise under the spectrum smoothed over five bands, which fills what speech leaves between.

    depth_min_db, depth_max_db: range of the noise's depth under the smoothed spectrum. The narrower band of low rates
        is `band_limit`'s.
    """

    def __init__(self, depth_min_db: float = 10.0, depth_max_db: float = 25.0, prob: float = 1.0) -> None:
        super().__init__(prob, (depth_min_db, depth_max_db))
        self.depth_min_db, self.depth_max_db = depth_min_db, depth_max_db

    def alter_power(self, power: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item with coding noise."""
        depth = ratio(uniform(generator, self.depth_min_db, self.depth_max_db, (len(power), 1, 1)))
        smooth = F.avg_pool1d(power, 5, stride=1, padding=2, count_include_pad=False)
        return incoherent_sum(power, smooth / depth, generator)


class Session(PowerAugmentation):
    """Another session, whole: room, then microphone, then noise or babble, then channel, then codec.

    prob: share of items that come from another session; the others stay as recorded.
    reverberation_prob, noise_prob, babble_prob, band_prob, codec_prob: chances within such an item; noise and babble
        exclude each other, the microphone is always another.
    noise_snr_min_db, noise_snr_max_db: as in `noise`. Recorded noise has much of its power below the lowest band, so
        that a ratio counted in mel bands is larger than one counted in samples.
    babble_snr_min_db, babble_snr_max_db: as in `babble`.
    level_db: largest change of the level, which is otherwise kept, as peak normalisation nearly does.
    The other settings are those of `random_equaliser`, `reverberation` and `band_limit`.
    """

    def __init__(
        self,
        prob: float = 0.7,
        reverberation_prob: float = 0.3,
        noise_prob: float = 0.22,
        babble_prob: float = 0.18,
        band_prob: float = 0.25,
        codec_prob: float = 0.2,
        curve_db: float = 2.0,
        bell_db: float = 6.0,
        noise_snr_min_db: float = 8.0,
        noise_snr_max_db: float = 28.0,
        babble_snr_min_db: float = 5.0,
        babble_snr_max_db: float = 20.0,
        rt60_min_s: float = 0.2,
        rt60_max_s: float = 0.8,
        drr_min_db: float = 2.0,
        drr_max_db: float = 18.0,
        telephone_share: float = 0.85,
        level_db: float = 1.5,
    ) -> None:
        super().__init__(prob)
        if noise_prob + babble_prob > 1:
            raise ValueError(f"noise_prob {noise_prob} and babble_prob {babble_prob} add up to more than 1")
        self.noise_prob, self.babble_prob, self.level_db = noise_prob, babble_prob, level_db
        self.before = (
            Reverberation(rt60_min_s, rt60_max_s, drr_min_db, drr_max_db, prob=reverberation_prob),
            RandomEqualiser(curve_db, bell_db=bell_db),
        )
        self.noise = Noise(noise_snr_min_db, noise_snr_max_db)
        self.babble = Babble(babble_snr_min_db, babble_snr_max_db)
        self.after = BandLimit(telephone_share, prob=band_prob), Codec(prob=codec_prob)

    def alter_power(self, power: Tensor, lengths: Tensor | None, generator: Generator) -> Tensor:
        """Return every item from a session of its own."""
        level = mean_power(power, lengths)
        for augmentation in self.before:
            power = augmentation.mix(power, lengths, generator)
        which = uniform(generator, 0.0, 1.0, (len(power), 1, 1))
        noisy = self.noise.alter_power(power, lengths, generator)
        babbled = self.babble.alter_power(power, lengths, generator)
        power = torch.where(which < self.noise_prob, noisy, torch.where(which > 1 - self.babble_prob, babbled, power))
        power = zero_padding(power, lengths)
        for augmentation in self.after:
            power = augmentation.mix(power, lengths, generator)
        gain = ratio(uniform(generator, -self.level_db, self.level_db, (len(power), 1, 1)))
        return power * (gain * level / mean_power(power, lengths).clamp_min(TINY))


AUGMENTATIONS = {
    "random_equaliser": RandomEqualiser,
    "noise": Noise,
    "babble": Babble,
    "reverberation": Reverberation,
    "band_limit": BandLimit,
    "codec": Codec,
    "session": Session,
}
