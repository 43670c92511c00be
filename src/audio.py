"""Decode one audio file from its bytes: mono, at the sample rate and peak that the settings ask for.

wav, flac, ogg, opus and mp3 are read by libsndfile. A truncated file often decodes without complaint, so each format's
own mark of its end is checked: the length that the header states, and for Ogg (opus, vorbis) a whole last page that
carries the end-of-stream flag. An mp3 without a Xing/Info header has no such mark.
"""

import io
import math
import struct

import numpy as np
import soundfile
import torch

from src.config import Features
from src.tensor_file import CorruptFile

BLOCK_SAMPLES = 1 << 20
PLAUSIBLE_SAMPLES = 1 << 28  # four hours at 16 kHz; what a header states beyond is made room for as it arrives
RESAMPLED_SAMPLES = 1 << 22  # resampled at once: torch's convolution takes some 14 times their memory
MP3_FRAME = 1152  # samples; a torn last frame changes nothing that could be heard
LARGEST_KERNEL = 1 << 20  # reduced rate from x reduced rate to; 44.1 to 16 kHz is 70,560


def decode(data: bytes) -> tuple[np.ndarray, int]:
    """Return the mono waveform (num_samples,) float32, the mean of the channels, and its sample rate in Hz.

    Raises CorruptFile for bytes that are no audio, for a truncated or empty file, and for NaN or infinite samples.
    """
    if data[:4] == b"OggS":
        _check_ogg(data)
    elif data[:4] == b"RIFF":
        _check_wav(data)
    num_samples = 0
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, stated, kind = file.samplerate, file.frames, file.format
            waveform = np.empty(min(stated, PLAUSIBLE_SAMPLES), np.float32)
            while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):  # never all channels at once
                if num_samples + len(block) > len(waveform):
                    waveform.resize(2 * (num_samples + len(block)), refcheck=False)
                waveform[num_samples : num_samples + len(block)] = block.mean(1)
                num_samples += len(block)
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise CorruptFile(f"cannot be decoded: {str(error).partition(': ')[2] or error}") from error
    waveform = waveform[:num_samples]
    if not num_samples:
        raise CorruptFile("holds no samples")
    has_length = not kind.startswith("MP") or b"Xing" in data[:8192] or b"Info" in data[:8192]
    if has_length and num_samples + (MP3_FRAME if kind.startswith("MP") else 0) < stated < 1 << 48:
        raise CorruptFile(f"truncated: {num_samples} of {stated} samples")
    if not math.isfinite(float(waveform.min())) or not math.isfinite(float(waveform.max())):
        raise CorruptFile("holds NaN or infinite samples")
    return waveform, rate


def standardise(waveform: np.ndarray, sample_rate: int, features: Features) -> torch.Tensor:
    """Return `waveform` (num_samples,) scaled, in place, to features.peak_db and then resampled to sample_rate.

    Silence stays silence. Raises CorruptFile for a rate whose ratio to the wanted one is too odd to resample.
    """
    scaled = torch.from_numpy(waveform)
    peak = max(float(scaled.max()), -float(scaled.min()), 1e-6)
    scaled.div_(peak).mul_(10 ** (features.peak_db / 20))  # in place: an hour is large
    return scaled if sample_rate == features.sample_rate else _resample(scaled, sample_rate, features.sample_rate)


def _resample(waveform: torch.Tensor, old: int, new: int) -> torch.Tensor:
    """Return `waveform` (num_samples,) at `new` Hz; long audio goes in overlapping blocks, to the same samples."""
    from torchaudio.functional import resample

    old_step, new_step = old // math.gcd(old, new), new // math.gcd(old, new)
    if old_step * new_step > LARGEST_KERNEL:
        raise CorruptFile(f"{old} Hz cannot be resampled to {new} Hz; convert it to a usual rate")
    if len(waveform) <= RESAMPLED_SAMPLES:
        return resample(waveform, old, new)
    steps, margin = RESAMPLED_SAMPLES // old_step, 64  # steps; the filter reaches fewer than 8
    parts = []
    for first in range(0, math.ceil(len(waveform) / old_step), steps):
        left = min(first, margin)
        block = waveform[(first - left) * old_step : (first + steps + margin) * old_step]
        parts.append(resample(block, old, new)[left * new_step : (left + steps) * new_step])
    return torch.cat(parts)[: math.ceil(len(waveform) * new_step / old_step)]


def to_int16(waveform: torch.Tensor) -> torch.Tensor:
    """Return samples in [-1, 1) as int16; what resampling pushed beyond is clipped."""
    return waveform.mul(32768).round_().clamp_(-32768, 32767).short()


def stated_s(data: bytes) -> float:
    """Return the length in seconds that the header states, 0 where it cannot be read."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            return file.frames / file.samplerate
    except (soundfile.SoundFileError, RuntimeError):
        return 0.0


def _check_ogg(data: bytes) -> None:
    """Raise CorruptFile unless the last page is whole and ends its stream (RFC 3533)."""
    page = data[data.rfind(b"OggS") :]
    header = 27 + page[26] if len(page) > 26 else 27  # 27 bytes and the table of segment sizes
    if len(page) < header + sum(page[27:header]) or len(page) < header:
        raise CorruptFile("truncated: the last Ogg page is torn")
    if not page[5] & 4:
        raise CorruptFile("truncated: the Ogg stream has no end")


def _check_wav(data: bytes) -> None:
    """Raise CorruptFile when the data chunk is shorter than its header says; a streamed file states no length."""
    position = 12
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        position += 8
        if name == b"data":
            if 0 < size < 0xFFFFFF00 and position + size > len(data):
                raise CorruptFile(f"truncated: {len(data) - position} of {size} bytes of samples")
            return
        position += size + size % 2
