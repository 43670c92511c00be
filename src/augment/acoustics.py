"""What another session is drawn from: random microphones, noises, channels, and how powers add in a mel band.

Shared by augment.py and its siblings. Every draw comes from a `torch.Generator` and lands on its device; curves are
natural-log power gains at given frequencies.
"""

import functools
import math

import torch
import torchaudio
from torch import Generator, Tensor
from torch.nn import functional as F

from src.model.masking import masked_mean, zero_padding

GRID = 128  # points over mel at which a gain is drawn before it is spread over FFT bins


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


SAMPLE_RATE, HOP_S, N_FFT, F_MIN, POWER_FLOOR = 16000, 0.01, 400, 50.0, 1e-9  # of the stored log-mels
DECIBEL = math.log(10) / 10  # one decibel as a difference of natural logarithms of power
FRAME_CORRELATION = 0.15  # of white noise's log-mels in consecutive frames
TINY = 1e-30  # keeps a quotient of silent items finite


def uniform(generator: Generator, low: float, high: float, shape: tuple[int, ...]) -> Tensor:
    """Return draws between `low` and `high` on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def whole(generator: Generator, bound: Tensor | int, shape: tuple[int, ...]) -> Tensor:
    """Return int64 draws from 0 to `bound` - 1; `bound` may differ by item."""
    draws = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64) * bound
    return draws.long().clamp_min(0)


def ratio(db: Tensor) -> Tensor:
    """Return the power ratio of decibels."""
    return torch.exp(db * DECIBEL)


def mel_position(hertz: Tensor) -> Tensor:
    """Return frequencies as positions on the HTK mel scale, 0 at F_MIN and 1 at half the sample rate."""
    edges = [math.log1p(edge / 700) for edge in (F_MIN, SAMPLE_RATE / 2)]
    return (torch.log1p(hertz / 700) - edges[0]) / (edges[1] - edges[0])


@functools.lru_cache(maxsize=8)
def mel_bands(num_mels: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return (num_mels,) centres in Hz, noise bandwidths in bins, and relative variances of white noise's power.

    The variance is that of a sum of FFT bins under the mel filter, neighbours being correlated by the Hann window: the
    square of (1, 2/3, 1/6) at a distance of 0, 1 and 2 bins.
    """
    bank = torchaudio.functional.melscale_fbanks(N_FFT // 2 + 1, F_MIN, SAMPLE_RATE / 2, num_mels, SAMPLE_RATE).T
    width = bank.sum(1)
    spread = F.conv1d(bank[:, None], torch.tensor([[[1 / 36, 4 / 9, 1.0, 4 / 9, 1 / 36]]]), padding=2)[:, 0]
    variance = torch.where(width > 0, (bank * spread).sum(1) / width.square().clamp_min(TINY), torch.ones(()))
    edges = [math.log1p(edge / 700) for edge in (F_MIN, SAMPLE_RATE / 2)]
    centres = 700 * torch.expm1(torch.linspace(edges[0], edges[1], num_mels + 2)[1:-1])
    return centres.to(device), width.clamp_min(1e-3).to(device), variance.to(device)


def incoherent_sum(
    signal: Tensor, noise: Tensor, generator: Generator, own: float = 1.0, cross: float = 1.0
) -> Tensor:
    """Return the power of signal and noise together in each cell of (B, T, F), drawn around signal + noise.

    own: share of a noise's variance that `noise` lacks: 1 for an expectation, 0 for a recording.
    cross: share of the cross term's variance that is left, below 1 where signal and noise are partly coherent.

    A noncentral chi-square is drawn as a power of a normal, after Wilson & Hilferty (1931). Ours is the fifth power,
    not the third: bins under a mel filter overlap, and the log-mels of white noise have its standard deviation within
    5 %. Consecutive frames, which share samples, correlate as measured there.
    """
    total = signal + noise
    share = noise / total.clamp_min(TINY)
    variance = share * (2 * cross + share * (own - 2 * cross)) * mel_bands(signal.shape[-1], signal.device)[2]
    fresh = torch.randn(signal.shape, generator=generator, device=signal.device)
    normal = fresh.clone()
    normal[:, 1:].add_(fresh[:, :-1], alpha=FRAME_CORRELATION).mul_((1 + FRAME_CORRELATION**2) ** -0.5)
    root = normal.mul_(variance.sqrt()).mul_(0.97 / 5).sub_(variance, alpha=0.076).add_(1).clamp_min_(0.1)
    return total * root.square().square_() * root


def mean_power(power: Tensor, lengths: Tensor | None) -> Tensor:
    """Return (B, 1, 1): the mean over valid frames of the power summed over bands."""
    return masked_mean(power.sum(-1, keepdim=True), lengths)[:, None]


def wrapped(positions: Tensor, lengths: Tensor | None, full: int) -> Tensor:
    """Return `positions` (B, T) in time, folded into each item's length by beginning again at its start."""
    return positions % (full if lengths is None else lengths[:, None])


def draw_curve(batch: int, positions: Tensor, curve_db: float, generator: Generator) -> Tensor:
    """Return (B, F) smooth random log gains of standard deviation `curve_db`, six cosines over mel position."""
    order = torch.arange(1, 7, device=positions.device)
    amplitude = math.sqrt(2) * curve_db * DECIBEL / order / (1 / order.square()).sum().sqrt()
    normal = torch.randn((batch, 6), generator=generator, device=positions.device)
    return (normal * amplitude) @ torch.cos(math.pi * order[:, None] * positions)


def draw_equaliser(
    batch: int, hertz: Tensor, curve_db: float, num_bells: int, bell_db: float, max_db: float, generator: Generator
) -> Tensor:
    """Return (B, F) log gains of a random microphone: a smooth curve and bells, bent to stay within `max_db`."""
    positions = mel_position(hertz)
    gain = draw_curve(batch, positions, curve_db, generator)
    for _ in range(num_bells):
        centre, width = (uniform(generator, *ends, (batch, 1)) for ends in ((0.0, 1.0), (0.03, 0.2)))
        height = uniform(generator, -bell_db * DECIBEL, bell_db * DECIBEL, (batch, 1))
        gain = gain + height * torch.exp(-0.5 * ((positions - centre) / width).square())
    largest = max_db * DECIBEL
    return largest * torch.tanh(gain / largest)


def draw_noise(
    batch: int, hertz: Tensor, slope_min_db: float, slope_max_db: float, curve_db: float, generator: Generator
) -> Tensor:
    """Return (B, F) log power density of coloured noise: a slope in dB an octave above 100 Hz and a smooth curve."""
    slope = uniform(generator, slope_min_db * DECIBEL, slope_max_db * DECIBEL, (batch, 1))
    curve = draw_curve(batch, mel_position(hertz), curve_db, generator)
    return slope * torch.log2(hertz.clamp_min(100.0) / 1000) + curve


def draw_band(
    batch: int, hertz: Tensor, telephone_share: float, cut_min_hz: float, cut_max_hz: float, generator: Generator
) -> Tensor:
    """Return (B, F) log gains of Butterworth bands: telephones (300 to 3400 Hz, give or take), else low-passes."""
    telephone = uniform(generator, 0.0, 1.0, (batch, 1)) < telephone_share
    low, low_order = (uniform(generator, *ends, (batch, 1)) for ends in ((200.0, 400.0), (2.0, 4.0)))
    high, high_order = (uniform(generator, *ends, (batch, 1)) for ends in ((3000.0, 3700.0), (6.0, 16.0)))
    cut, cut_order = (uniform(generator, *ends, (batch, 1)) for ends in ((cut_min_hz, cut_max_hz), (10.0, 30.0)))
    high, high_order = torch.where(telephone, high, cut), torch.where(telephone, high_order, cut_order)
    low_pass = -F.softplus(2 * high_order * (hertz / high).log())
    high_pass = -F.softplus(2 * low_order * (low / hertz).log())
    # Window leakage from the harmonics above keeps the lowest bands from falling further.
    high_pass = torch.logaddexp(high_pass, uniform(generator, -30 * DECIBEL, -14 * DECIBEL, (batch, 1)))
    return low_pass + torch.where(telephone, high_pass, 0.0)


def draw_talker(batch: int, size: int, lengths: Tensor | None, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return another item for each item (B, 1) and the times (B, size) at which to read it, from a random one on."""
    rows = torch.arange(batch, device=generator.device)[:, None]
    talker = (rows + 1 + whole(generator, max(batch - 1, 1), (batch, 1))) % batch
    position = torch.arange(size, device=generator.device) + whole(generator, size, (batch, 1))
    return talker, wrapped(position, None if lengths is None else lengths[talker[:, 0]], size)
