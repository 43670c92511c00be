"""Decode one audio file from its bytes: mono, at the sample rate and peak that the settings ask for.

wav, flac, ogg, opus and mp3 are decoded by libsndfile. A damaged file often decodes without complaint, so what each
format says of itself is checked before (sound_files): the length that the header states against the bytes, frames and
pages that are there, and for Ogg the checksum of every page. Within flac libsndfile checks. A changed sample of a wav
or mp3 cannot be told from another sound, and an mp3 without a Xing/Info header does not say where it ends.
"""

from __future__ import annotations

import functools
import io
import math
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from src.base.torch_files import CorruptFile
from src.settings.config import Features
from src.store.remarks import CANCELLING, SILENT, remark
from src.store.sound_files import split_sound
from src.store.sound_part import Part

if TYPE_CHECKING:
    import torch

BLOCK_SAMPLES = 1 << 20
PLAUSIBLE_SAMPLES = 1 << 28  # four hours at 16 kHz; what a header states beyond is made room for as it arrives
MOST_SAMPLES = 1 << 29  # three hours at 48 kHz, 2 GB; hours of silence fit a flac of a few kilobytes
MOST_CHANNELS = 64
RATES = 4000, 768_000  # Hz; a second at 1 Hz would become 16,000
RESAMPLED_SAMPLES = 1 << 22  # resampled at once: torch's convolution takes some 14 times their memory
MP3_FRAME = 1152  # samples; a torn last frame changes nothing that could be heard
LARGEST_KERNEL = 1 << 20  # reduced rate from x reduced rate to; 44.1 to 16 kHz is 70,560
FILTER_WIDTH, ROLLOFF = 6, 0.99  # torchaudio's own, for the rates whose kernel would be larger
CANCELLED = 0.01  # of the channels' energy; of uncorrelated channels, MOST_CHANNELS of them, a 64th is left
SILENCE = 1e-5  # of full scale, from the lowest sample to the highest; 16 bits reach down to 3e-5


def decode(data: bytes, remarks: dict[str, str] | None = None) -> tuple[np.ndarray, int]:
    """Return the mono waveform (num_samples,) float32, the mean of the channels, and its sample rate in Hz.

    Of channels that cancel one another the loudest is taken. remarks: gets {kind: cause} of what is odd about a file
    that is read all the same. Raises CorruptFile for bytes that are no audio, for a truncated, changed or empty file,
    for NaN or infinite samples, and for rates, channels and lengths that no recording of speech has.
    """
    remarks = {} if remarks is None else remarks
    return join(split_sound(data, remarks), remarks)


def join(parts: list[Part], remarks: dict[str, str]) -> tuple[np.ndarray, int]:
    """Return, as `decode` does, the parts of a file one after another, at the sample rate of the first."""
    waveforms, rate, num_samples = [], 0, 0
    for part in parts:
        waveform, part_rate = _decoded(part, remarks)
        rate = rate or part_rate
        waveforms.append(waveform if part_rate == rate else resampled(waveform, part_rate, rate))
        num_samples += len(waveforms[-1])
        _check_length(num_samples, rate)
    if not num_samples:
        raise CorruptFile("holds no samples")
    waveform = waveforms[0] if len(waveforms) == 1 else np.concatenate(waveforms)
    lowest, highest = float(waveform.min()), float(waveform.max())
    if not math.isfinite(lowest) or not math.isfinite(highest):
        raise CorruptFile("holds NaN or infinite samples")
    if highest - lowest <= SILENCE:
        remark(remarks, SILENT)
    return waveform, rate


def stated_s(parts: list[Part]) -> float:
    """Return the length in seconds that the headers of a file's parts state, 0 where they cannot be read."""
    seconds = 0.0
    for part in parts:
        try:
            with soundfile.SoundFile(io.BytesIO(part.data)) as file:
                seconds += max(file.frames, part.num_samples) / file.samplerate
        except (soundfile.SoundFileError, RuntimeError):
            continue
    return seconds


def _decoded(part: Part, remarks: dict[str, str]) -> tuple[np.ndarray, int]:
    """Return the waveform of a part and its rate; of channels that cancel one another the loudest is taken."""
    try:
        waveform, rate, is_cancelled = _read(part)
        if is_cancelled:
            remark(remarks, CANCELLING)
            waveform, rate, _ = _read(part, _loudest(part))
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise CorruptFile(f"cannot be decoded: {str(error).partition(': ')[2] or error}") from error
    return waveform, rate


def _read(part: Part, channel: int | None = None) -> tuple[np.ndarray, int, bool]:
    """Return what libsndfile reads of a part, its rate, and whether its channels cancel one another.

    channel: the one to take, by default the mean of all. Raises CorruptFile where the part is shorter than it should
    be.
    """
    with soundfile.SoundFile(io.BytesIO(part.data)) as file:
        rate, stated, num_channels = file.samplerate, file.frames, file.channels
        if not RATES[0] <= rate <= RATES[1] or num_channels > MOST_CHANNELS:
            raise CorruptFile(f"{rate} Hz and {num_channels} channels; a recording has {RATES[0]} to {RATES[1]} Hz and "
                              f"at most {MOST_CHANNELS} channels")
        if part.lead and stated < part.num_samples:  # libsndfile's guess, which it would keep to
            led = Part(part.lead + part.data, part.num_samples + part.num_lead, is_guessed=True)
            waveform, rate, is_cancelled = _read(led, channel)
            return waveform[part.num_lead :], rate, is_cancelled
        waveform, num_samples, energy, mixed_energy = np.empty(min(stated, PLAUSIBLE_SAMPLES), np.float32), 0, 0.0, 0.0
        while len(block := _block(file)):
            _check_length(num_samples + len(block), rate)
            if num_samples + len(block) > len(waveform):
                waveform.resize(2 * (num_samples + len(block)), refcheck=False)
            mono = block.mean(1) if channel is None else block[:, channel]
            waveform[num_samples : num_samples + len(block)] = mono
            num_samples += len(block)
            if num_channels > 1 and channel is None:
                energy += _energy(block) / num_channels
                mixed_energy += _energy(mono)
    expected = part.num_samples if part.is_guessed else stated
    if num_samples + (MP3_FRAME if file.format.startswith("MP") else 0) < expected < 1 << 48:
        raise CorruptFile(f"truncated: {num_samples} of {expected} samples")
    return waveform[:num_samples], rate, mixed_energy < CANCELLED * energy


def _loudest(part: Part) -> int:
    """Return the channel of the largest energy."""
    energies = 0.0
    with soundfile.SoundFile(io.BytesIO(part.data)) as file:
        while len(block := _block(file)):
            energies += np.square(block, dtype=np.float64).sum(0)
    return int(np.argmax(energies))


def _block(file: soundfile.SoundFile) -> np.ndarray:
    """Return the next samples (num_samples, num_channels); never all channels of a long file at once."""
    return file.read(BLOCK_SAMPLES // file.channels, dtype="float32", always_2d=True)


def _energy(samples: np.ndarray) -> float:
    samples = samples.ravel()
    return float(np.einsum("i,i->", samples, samples))


def _check_length(num_samples: int, rate: int) -> None:
    if num_samples > MOST_SAMPLES:
        raise CorruptFile(f"longer than {MOST_SAMPLES / rate / 3600:.0f} hours; cut it into utterances")


def standardise(waveform: np.ndarray, sample_rate: int, features: Features) -> torch.Tensor:
    """Return `waveform` (num_samples,) scaled, in place, to features.peak_db and then resampled to sample_rate.

    Silence stays silence.
    """
    import torch  # not above: decode runs without it

    scaled = torch.from_numpy(waveform)
    peak = max(float(scaled.max()), -float(scaled.min()), 1e-6)
    scaled.div_(peak).mul_(10 ** (features.peak_db / 20))  # in place: an hour is large
    return scaled if sample_rate == features.sample_rate else _resample(scaled, sample_rate, features.sample_rate)


def _resample(waveform: torch.Tensor, old: int, new: int) -> torch.Tensor:
    """Return `waveform` (num_samples,) at `new` Hz; long audio goes in overlapping blocks, to the same samples."""
    import torch
    from torchaudio.functional import resample

    old_step, new_step = old // math.gcd(old, new), new // math.gcd(old, new)
    if old_step * new_step > LARGEST_KERNEL:
        return torch.from_numpy(resampled(waveform.numpy(), old, new))
    if len(waveform) <= RESAMPLED_SAMPLES:
        return resample(waveform, old, new)
    steps, margin = RESAMPLED_SAMPLES // old_step, 64  # steps; the filter reaches fewer than 8
    parts = []
    for first in range(0, math.ceil(len(waveform) / old_step), steps):
        left = min(first, margin)
        block = waveform[(first - left) * old_step : (first + steps + margin) * old_step]
        parts.append(resample(block, old, new)[left * new_step : (left + steps) * new_step])
    return torch.cat(parts)[: math.ceil(len(waveform) * new_step / old_step)]


def resampled(waveform: np.ndarray, old: int, new: int) -> np.ndarray:
    """Return `waveform` (num_samples,) float32 at `new` Hz, for any two whole rates, by torchaudio's own filter.

    torchaudio's convolution multiplies by every sample that a period of both rates holds, nearly all of them by zero;
    polyphase filtering (Crochiere and Rabiner, 1983) skips the zeros, which makes rates without a common divisor cheap.
    """
    from scipy.signal import resample_poly

    old_step, new_step = old // math.gcd(old, new), new // math.gcd(old, new)
    return resample_poly(waveform, new_step, old_step, window=_low_pass(old_step, new_step))


@functools.lru_cache(maxsize=4)
def _low_pass(old_step: int, new_step: int) -> np.ndarray:
    """Return the filter at the rate that is a multiple of both: a sinc within a Hann window, as torchaudio's."""
    reach = math.ceil(FILTER_WIDTH * max(old_step, new_step) / ROLLOFF)
    crossings = np.arange(-reach, reach + 1) * (ROLLOFF / max(old_step, new_step))  # of the sinc through zero
    window = np.cos(np.clip(crossings / FILTER_WIDTH, -1, 1) * (np.pi / 2)) ** 2
    return (np.sinc(crossings) * window * (ROLLOFF / max(old_step, new_step))).astype(np.float32)


def to_int16(waveform: torch.Tensor) -> torch.Tensor:
    """Return samples in [-1, 1) as int16; what resampling pushed beyond is clipped."""
    return waveform.mul(32768).round_().clamp_(-32768, 32767).short()
