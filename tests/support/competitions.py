"""What tests build competitions of: tables, voices and audio files."""

import csv

import numpy as np
import soundfile
from scipy import signal

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


def sentence(speaker, take, seconds=2.0):
    """Return a voice whose syllables rise and fall, each take with a rhythm of its own."""
    rng = np.random.default_rng([7, speaker, take])
    time_s = np.linspace(0, seconds, int(seconds * 16000))
    waveform = np.zeros(len(time_s))
    for band, spoken in enumerate((voice(speaker, take, seconds), voice(speaker + 2, take, seconds))):
        loudness = np.interp(time_s, np.arange(0, seconds + 0.1, 0.06), rng.uniform(-2.5, 0, int(seconds / 0.06) + 2))
        waveform += spoken[: len(time_s)] * 10**loudness / (1 + band)
    return waveform.astype(np.float32)


def second_microphone(waveform, seed=0):
    """Return the recording as a duller, noisier microphone 3 ms further away gives it."""
    dull = signal.lfilter(*signal.butter(1, 3000, fs=16000), waveform)
    noise = np.random.default_rng(seed).standard_normal(len(dull)) * np.std(dull) / 100
    return np.roll(0.3 * (dull + noise), 48).astype(np.float32)


def write_audio(path, waveform, rate=16000):
    """Write a waveform in the format that the ending names."""
    format_, subtype = {".ogg": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS")}.get(path.suffix, (None, None))
    soundfile.write(path, waveform, rate, format=format_, subtype=subtype)
