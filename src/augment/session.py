"""Another session whole, on log-mels and on waveforms: room, microphone, noise or babble, channel and codec.

Log-mels are altered as power: exp, operate, log with the features' floor. Incoherent sums carry the fluctuation that
real noise shows in a mel band of a 25 ms frame. Waveforms have real rooms and phases, and take longer.
"""

import torch
from torch import Generator, Tensor

from src.augment.acoustics import DECIBEL, TINY, mean_power, mean_square, ratio, uniform
from src.augment.base import PowerAugmentation, SessionAugmentation
from src.augment.channel import BandLimit, Codec, RandomEqualiser, WaveformBandLimit, WaveformEqualiser
from src.augment.noise import Babble, Noise, WaveformBabble, WaveformNoise
from src.augment.room import Reverberation, RoomReverberation
from src.model.masking import zero_padding


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


AUGMENTATIONS = {"session": Session, "waveform_session": WaveformSession}
