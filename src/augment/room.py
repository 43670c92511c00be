"""Rooms from a generator: impulse responses go out, for the reverberation of waveforms.

Early reflections come from the image-source method for a shoebox room (Allen & Berkley, 1979); where images grow too
many, 40 ms after the direct sound, a noise tail takes over that decays as the room does. Each response starts with its
direct sound, so that a convolution moves nothing in time, and has unit energy.
"""

import math

import torch
import torchaudio
from torch import Generator, Tensor

from src.augment.acoustics import HOP_S, TINY, fft_size, incoherent_sum, mean_square, ratio, uniform, whole
from src.augment.base import PowerAugmentation, SessionAugmentation
from src.model.masking import zero_padding


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


SPEED_OF_SOUND = 343.0  # m/s
EARLY_S = 0.04  # from the direct sound to the tail
REACH = 4  # pairs of images on each side of the room, enough for EARLY_S in the smallest one


def draw_rooms(
    num_rooms: int,
    rt60_min_s: float,
    rt60_max_s: float,
    distance_min_m: float,
    distance_max_m: float,
    generator: Generator,
    sample_rate: int = 16000,
) -> tuple[Tensor, Tensor]:
    """Return impulse responses (num_rooms, num_samples) float32 and their RT60 (num_rooms,) in seconds.

    Rooms of 3 to 9 m by 3 to 7 m by 2.4 to 3.5 m with a talker and a microphone inside, as far apart as the range says
    or as the room allows; wall absorption follows from the drawn RT60 by Eyring's formula. Above 2 kHz the tail decays
    faster, down to 0.6 of RT60, as air and furniture take more. The number of samples holds the longest RT60.
    """

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low

    rt60 = draw(rt60_min_s, rt60_max_s, num_rooms)
    smallest, largest = torch.tensor([3.0, 3.0, 2.4]).double(), torch.tensor([9.0, 7.0, 3.5]).double()
    size = smallest + draw(0.0, 1.0, num_rooms, 3) * (largest - smallest)
    microphone = 0.4 + draw(0.0, 1.0, num_rooms, 3) * (size - 0.8)
    direction = torch.randn((num_rooms, 3), generator=generator, dtype=torch.float64)
    direction = direction / direction.norm(dim=1, keepdim=True)
    away = draw(distance_min_m, distance_max_m, num_rooms)[:, None] * direction
    talker = torch.minimum((microphone + away).clamp_min(0.3), size - 0.3)

    volume = size.prod(1)
    surface = 2 * (size[:, 0] * size[:, 1] + size[:, 0] * size[:, 2] + size[:, 1] * size[:, 2])
    absorption = 1 - torch.exp(-24 * math.log(10) / SPEED_OF_SOUND * volume / (surface * rt60))
    delay, amplitude = _images(size, talker, microphone, (1 - absorption).sqrt())

    num_samples = int(rt60_max_s * sample_rate)
    direct = delay.amin(1, keepdim=True)
    sample = ((delay - direct) * sample_rate).round().long()
    is_early = delay - direct < EARLY_S
    early = torch.zeros(num_rooms, num_samples, dtype=torch.float64)
    early.scatter_add_(1, sample.clamp_max(num_samples - 1), torch.where(is_early, amplitude, 0.0))

    time = torch.arange(num_samples, dtype=torch.float64) / sample_rate
    tail = torch.randn((num_rooms, num_samples), generator=generator, dtype=torch.float64)
    tail = _darker(tail, rt60, time, sample_rate)
    # At a distance d, images lie 4 pi d^2 / V a metre and each brings 1 / d^2 of energy less absorption: 4 pi c / V a
    # second, times the decay since emission.
    power = 4 * math.pi * SPEED_OF_SOUND / volume[:, None] * 10 ** (-6 * (time + direct) / rt60[:, None]) / sample_rate
    response = early + torch.where(time >= EARLY_S, tail * power.sqrt(), 0.0)
    # Images are all positive and pile up at 0 Hz; the paper takes that out by the same means.
    response = torchaudio.functional.highpass_biquad(response, sample_rate, 80.0)
    return (response / response.norm(dim=1, keepdim=True)).float(), rt60.float()


def _images(size: Tensor, talker: Tensor, microphone: Tensor, reflection: Tensor) -> tuple[Tensor, Tensor]:
    """Return delays in s and amplitudes (num_rooms, num_images) of a shoebox's image sources, all walls alike."""
    cells = torch.arange(-REACH, REACH + 1)
    along, bounces = [], []
    for axis in range(3):  # an image lies at 2 n L + s after |2 n| bounces, or at 2 n L - s after |2 n - 1|
        offset = 2 * cells * size[:, axis, None]
        place = torch.cat([offset + talker[:, axis, None], offset - talker[:, axis, None]], dim=1)
        along.append((place - microphone[:, axis, None]).square())
        bounces.append(torch.cat([(2 * cells).abs(), (2 * cells - 1).abs()]))
    distance = (along[0][:, :, None, None] + along[1][:, None, :, None] + along[2][:, None, None, :]).sqrt().flatten(1)
    count = (bounces[0][:, None, None] + bounces[1][None, :, None] + bounces[2][None, None, :]).flatten()
    return distance / SPEED_OF_SOUND, reflection[:, None] ** count / distance.clamp_min(0.1)


def _darker(tail: Tensor, rt60: Tensor, time: Tensor, sample_rate: int) -> Tensor:
    """Return white noise (num_rooms, num_samples) whose part above 2 kHz decays as a room of 0.6 RT60 would add."""
    spectrum = torch.fft.rfft(tail)
    hertz = torch.linspace(0, sample_rate / 2, spectrum.shape[1], dtype=torch.float64)
    low = torch.fft.irfft(spectrum * torch.sigmoid((2000 - hertz) / 100), n=tail.shape[1])
    return low + (tail - low) * 10 ** (-3 * time / rt60[:, None] * (1 / 0.6 - 1))


AUGMENTATIONS = {
    "reverberation": Reverberation,
    "room_reverberation": RoomReverberation,
}
