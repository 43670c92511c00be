"""What tests build competitions of: tables, voices and audio files."""

import csv

import numpy as np
import soundfile

SPEAKERS = ("anna", "bert", "carl")


def write_table(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def voice(speaker, take, seconds, rate=16000):
    """Return a waveform (num_samples,): harmonics of the speaker's own pitch and a little noise."""
    rng = np.random.default_rng([speaker, take])
    time_s = np.arange(int(seconds * rate)) / rate
    pitch = 110 * 1.5**speaker * rng.uniform(0.97, 1.03)
    waveform = sum(np.sin(2 * np.pi * pitch * k * time_s + rng.uniform(0, 6)) / k for k in range(1, 8))
    return (0.1 * waveform + 0.005 * rng.standard_normal(len(time_s))).astype(np.float32)


def write_audio(path, waveform, rate=16000):
    """Write a waveform in the format that the ending names."""
    format_, subtype = {".ogg": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS")}.get(path.suffix, (None, None))
    soundfile.write(path, waveform, rate, format=format_, subtype=subtype)
