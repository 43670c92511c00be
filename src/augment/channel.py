"""Another microphone, telephone band or codec, on log-mels and on waveforms."""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from src.augment.acoustics import (
    at_snr,
    draw_band,
    draw_equaliser,
    filtered,
    grid_hertz,
    incoherent_sum,
    mel_bands,
    ratio,
    uniform,
)
from src.augment.base import PowerAugmentation, SessionAugmentation


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


AUGMENTATIONS = {
    "random_equaliser": RandomEqualiser,
    "band_limit": BandLimit,
    "codec": Codec,
    "waveform_equaliser": WaveformEqualiser,
    "waveform_band_limit": WaveformBandLimit,
}
