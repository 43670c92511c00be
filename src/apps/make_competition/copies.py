"""Which of a corpus' files are the same recording: by several microphones, at several levels, in several codecs.

Goes in: recordings. Comes out: the same with `copies` set, so that all of one recording go to one side of a
competition. Files are decoded once, and what they hold decides (see store/leak_audit.py); names that differ in the
number of a microphone or channel alone, as VCTK's p225_001_mic1 and p225_001_mic2 do, are believed in addition.
"""

import dataclasses
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from src.apps.make_competition.corpus_recording import Recording
from src.base.machine import usable_cpus
from src.base.text import some
from src.base.torch_files import CorruptFile
from src.model.frontend import LogMel
from src.settings.config import Features
from src.store import audio_file as audio
from src.store.leak_audit import find_leaks
from src.store.leaks import joined_groups

MICROPHONE = re.compile(r"(.+)[._-](?:mic|ch|channel)[._-]?\d+", re.IGNORECASE)  # of a name without its ending
AHEAD = 1024  # files that are decoded before the first of them is written


def mark_copies(recordings: Sequence[Recording]) -> list[Recording]:
    """Return the recordings, `copies` set for those that stand there more than once, and say how many they are.

    A recording under several speakers stays with the first of them.
    """
    names = joined_groups(_by_name(recordings), _by_sound(recordings))
    rows_of = defaultdict(list)
    for row, name in enumerate(names):
        if name:
            rows_of[name].append(row)
    marked, foreign = list(recordings), set()
    together = [rows for rows in rows_of.values() if len(rows) > 1]
    for rows in together:
        for row in rows:
            marked[row] = dataclasses.replace(marked[row], copies=f"recording {rows[0]}")
            if marked[row].speaker != marked[rows[0]].speaker:
                foreign.add(row)
    if together:
        listed = some([" = ".join(recordings[row].name for row in rows) for rows in together])
        print(f"{len(together):,} recordings stand there more than once, each kept on one side: {listed}")
    if foreign:
        print(f"left out: {len(foreign):,} files that are a recording of another speaker's: "
              f"{some([str(recordings[row].path) for row in sorted(foreign)])}")
    return [recording for row, recording in enumerate(marked) if row not in foreign]


def _by_name(recordings: Sequence[Recording]) -> list[str]:
    """Return a name for each recording, the same where only the number of a microphone differs, "" without one."""
    matches = [MICROPHONE.fullmatch(Path(recording.name).stem) for recording in recordings]
    return ["\0".join((r.speaker, r.session, match[1])) if match and not r.is_part else ""
            for r, match in zip(recordings, matches)]


def _by_sound(recordings: Sequence[Recording]) -> list[str]:
    """Return a name for each recording, the same where the sound is that of one recording, "" where there is one."""
    features, rows, total = Features(), [], 0
    names = [""] * len(recordings)
    with tempfile.TemporaryFile() as file:
        for row, frames in tqdm(_log_mels(recordings, features), total=len(recordings), desc="compare",
                                unit="utterance", disable=None):
            if len(frames):
                rows.append((str(row), "train", recordings[row].speaker, "", "", total, len(frames)))
                total += len(frames)
                file.write(frames.tobytes())
        if rows:
            file.flush()
            stored = np.memmap(file, np.float16, mode="r", shape=(total, features.num_mels))
            for leak in find_leaks(rows, [""] * len(rows), stored, {"kind": "logmel"}):
                names[int(leak.utt_id)] = leak.recording
    return names


def _log_mels(recordings: Sequence[Recording], features: Features) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number and the log-mels (T, num_mels) float16 of each recording, none for what cannot be used."""
    log_mel = LogMel(features)

    def read(recording: Recording) -> np.ndarray:
        none = np.empty((0, features.num_mels), np.float16)
        if recording.is_part:
            return none
        try:
            waveform = audio.standardise(*audio.decode(recording.path.read_bytes()), features)
        except CorruptFile:  # where it matters, it is told later
            return none
        return torch.cat(list(log_mel.blocks(waveform))).half().numpy()

    with ThreadPoolExecutor(usable_cpus()) as pool:
        for begin in range(0, len(recordings), AHEAD):
            yield from enumerate(pool.map(read, recordings[begin : begin + AHEAD]), begin)
