"""Rooms from a generator: impulse responses go out, for the reverberation of waveforms.

Early reflections come from the image-source method for a shoebox room (Allen & Berkley, 1979); where images grow too
many, 40 ms after the direct sound, a noise tail takes over that decays as the room does. Each response starts with its
direct sound, so that a convolution moves nothing in time, and has unit energy.
"""

import math

import torch
import torchaudio
from torch import Generator, Tensor

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
