"""Decode one audio file from its bytes: mono, at the sample rate and peak that the settings ask for.

wav, flac, ogg, opus and mp3 are read by libsndfile. A damaged file often decodes without complaint, so what each format
says of itself is checked: the length that the header states, and for Ogg (opus, vorbis) the checksum of every page and
the end-of-stream flag of the last. Within flac libsndfile checks. A changed sample of a wav or mp3 cannot be told from
another sound, and an mp3 without a Xing/Info header does not say where it ends.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from src.base.torch_files import CorruptFile
from src.settings.config import Features

if TYPE_CHECKING:
    import torch

BLOCK_SAMPLES = 1 << 20
PLAUSIBLE_SAMPLES = 1 << 28  # four hours at 16 kHz; what a header states beyond is made room for as it arrives
MOST_SAMPLES = 1 << 29  # three hours at 48 kHz, 2 GB; hours of silence fit a flac of a few kilobytes
MOST_CHANNELS = 64
RATES = 4000, 768_000  # Hz; a second at 1 Hz would become 16,000
RESAMPLED_SAMPLES = 1 << 22  # resampled at once: torch's convolution takes some 14 times their memory
STREAMED_BYTES = 0x7FFFF000 - 64  # a wav written to a pipe states a size from here on, or 0: its writer did not know
MP3_FRAME = 1152  # samples; a torn last frame changes nothing that could be heard
LARGEST_KERNEL = 1 << 20  # reduced rate from x reduced rate to; 44.1 to 16 kHz is 70,560
REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def decode(data: bytes) -> tuple[np.ndarray, int]:
    """Return the mono waveform (num_samples,) float32, the mean of the channels, and its sample rate in Hz.

    Raises CorruptFile for bytes that are no audio, for a truncated, changed or empty file, for NaN or infinite samples,
    and for rates, channels and lengths that no recording of speech has.
    """
    if data[:4] == b"OggS":
        _check_ogg(data)
    elif data[:4] == b"RIFF":
        data = _checked_wav(data)
    num_samples = 0
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, stated, kind = file.samplerate, file.frames, file.format
            if not RATES[0] <= rate <= RATES[1] or file.channels > MOST_CHANNELS:
                raise CorruptFile(f"{rate} Hz and {file.channels} channels; a recording has {RATES[0]} to "
                                  f"{RATES[1]} Hz and at most {MOST_CHANNELS} channels")
            block_samples = BLOCK_SAMPLES // file.channels
            waveform = np.empty(min(stated, PLAUSIBLE_SAMPLES), np.float32)
            while len(block := file.read(block_samples, dtype="float32", always_2d=True)):  # never all channels at once
                if num_samples + len(block) > MOST_SAMPLES:
                    raise CorruptFile(f"longer than {MOST_SAMPLES / rate / 3600:.0f} hours; cut it into utterances")
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
    """Raise CorruptFile unless every page is whole and as it was written, and the last ends its stream (RFC 3533)."""
    position, has_end = 0, False
    while data[position : position + 4] == b"OggS":
        table = position + 27 + (data[position + 26] if position + 26 < len(data) else 0)  # where segment sizes end
        page = data[position : table + sum(data[position + 27 : table])]
        if table > len(data) or position + len(page) < table + sum(data[position + 27 : table]):
            raise CorruptFile("truncated: the last Ogg page is torn")
        if _ogg_crc(page) != int.from_bytes(page[22:26], "little"):
            raise CorruptFile("the checksum of an Ogg page does not match: some bytes have changed")
        position, has_end = position + len(page), bool(page[5] & 4)
    if not has_end:  # what follows the end is no audio: tags, as some programs append them
        raise CorruptFile("changed: no Ogg page where one should be" if position < len(data)
                          else "truncated: the Ogg stream has no end")


def _ogg_crc(page: bytes) -> int:
    """Return the checksum of an Ogg page, its own field as zeros.

    The polynomial is zlib's, but the highest bit comes first and nothing is inverted.
    """
    page = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(page.translate(REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


def _checked_wav(data: bytes) -> bytes:
    """Return a wav; raises CorruptFile when its data chunk is shorter than the header says.

    A file written to a pipe states no length, or one far beyond its own; 0, which would be read as no samples, is
    replaced in both headers.
    """
    position = 12
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        position += 8
        if name == b"data":
            if 0 < size < STREAMED_BYTES and position + size > len(data):
                raise CorruptFile(f"truncated: {len(data) - position} of {size} bytes of samples")
            stated = 8 + int.from_bytes(data[4:8], "little")
            if size == 0 and stated <= position < len(data):  # else a chunk of another kind follows an empty one
                return b"".join((b"RIFF", struct.pack("<I", len(data) - 8), data[8 : position - 4],
                                 struct.pack("<I", len(data) - position), data[position:]))
            return data
        position += size + size % 2
    return data
