"""The test utterances of a made competition, as they were recorded or as another session would give them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from numpy.random import Generator
from tqdm import tqdm

from src.apps.make_competition.corpus import Recording
from src.apps.make_competition.place import place
from src.apps.make_competition.split import Split
from src.base.errors import InputError
from src.base.machine import usable_cpus
from src.base.torch_files import CorruptFile
from src.settings.config import Features
from src.shift.degrade import SAMPLE_RATE, degrade, generator
from src.store import audio_file as audio

SHIFT = {"as recorded": 0.3, "mixed": 0.4, "equaliser": 0.05, "noise": 0.05, "babble": 0.05, "reverberation": 0.05,
         "telephone": 0.05, "bitrate": 0.05}  # the part of the test utterances that goes through each condition
NUM_VOICES = 40  # speakers whose training utterances are the babble


def draw_conditions(number: int, rng: Generator) -> list[str]:
    """Return the condition of each of `number` test utterances: the parts of SHIFT to the utterance, shuffled."""
    ends = np.round(np.cumsum(list(SHIFT.values())) * number).astype(int)
    return rng.permutation(np.repeat(list(SHIFT), np.diff(ends, prepend=0))).tolist()


def write_tests(folder: Path, names: list[str], tests: list[Recording], conditions: list[str | None],
                voices: list[tuple[str, np.ndarray]]) -> Iterator[tuple[str, str]]:
    """Write the test files and yield, in order, each one's name in the competition and why it cannot be used, or ""."""
    def write(name: str, recording: Recording, condition: str | None) -> tuple[str, str]:
        try:
            file_name = name + (".flac" if condition else recording.path.suffix.lower())
            waveform = _decoded(recording.path)  # one unusable test file would stop every run
        except CorruptFile as fault:
            return name, str(fault)
        if condition is None:
            place(recording.path, folder / "test" / file_name)
        else:
            others = [voice for speaker, voice in voices if speaker != recording.speaker]
            _write_shifted(folder / "test" / file_name, waveform, condition, others)
        return file_name, ""

    with ThreadPoolExecutor(usable_cpus()) as pool:
        yield from tqdm(pool.map(write, names, tests, conditions), total=len(tests), desc="test", unit="utterance",
                        disable=None)


def _decoded(path: Path) -> np.ndarray:
    """Return the waveform (num_samples,) float32 at 16 kHz, peak -3 dB."""
    return audio.standardise(*audio.decode(path.read_bytes()), Features()).numpy()


def draw_voices(splits: dict[str, Split], rng: Generator) -> list[tuple[str, np.ndarray]]:
    """Return (speaker, waveform) of a training utterance of some speakers, for babble."""
    voices: list[tuple[str, np.ndarray]] = []
    for i in rng.permutation(len(splits)):
        split = list(splits.values())[i]
        try:
            voices.append((split.train[0].speaker, _decoded(split.train[int(rng.integers(len(split.train)))].path)))
        except CorruptFile:
            continue
        if len(voices) == NUM_VOICES:
            break
    if len(voices) < 2:
        raise InputError("--shift: fewer than two speakers have a usable training utterance for babble; unpack the "
                         "corpus again")
    return voices


def _write_shifted(path: Path, waveform: np.ndarray, condition: str, voices: list[np.ndarray]) -> None:
    """Write a test utterance as another session would have given it, 16-bit flac whatever the condition."""
    if condition != "as recorded":
        waveform = degrade(waveform, condition, generator(condition, path.stem), voices)
    soundfile.write(path, waveform, SAMPLE_RATE, subtype="PCM_16")
