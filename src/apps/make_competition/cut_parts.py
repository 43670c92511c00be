"""Cut the utterances that are parts of longer recordings, as Kaldi's segments name them, into files of their own.

Goes in: the splits of make_competition. Comes out: the same with each part as a 16-bit flac at its recording's rate.
Every recording is decoded once, by the code that preprocess uses, whole and checked.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import soundfile

from src.apps.make_competition.corpus_recording import Recording
from src.apps.make_competition.split import Split
from src.base.errors import InputError
from src.base.torch_files import CorruptFile
from src.store.audio_file import decode

OVERSHOOT_S = 0.5  # a part may end so much after its recording, as segments often do


def cut_parts(splits: dict[str, Split], folder: Path) -> dict[str, Split]:
    """Return the splits with files in `folder` for recordings that were parts; others stay as they are.

    Raises InputError for a recording that cannot be decoded or ends before one of its parts.
    """
    parts: dict[Path, list[Recording]] = {}
    for recording in _all(splits):
        if recording.is_part:
            parts.setdefault(recording.path, []).append(recording)
    cut: dict[Recording, Recording] = {}
    for path, own in parts.items():
        folder.mkdir(exist_ok=True)
        for recording, target in zip(own, _cut(path, own, folder, len(cut))):
            cut[recording] = replace(recording, path=target, start_s=0.0, stop_s=0.0)
    return {speaker: Split(*(tuple(cut.get(recording, recording) for recording in side)
                             for side in (split.train, split.test))) for speaker, split in splits.items()}


def _all(splits: dict[str, Split]) -> Iterable[Recording]:
    for split in splits.values():
        yield from split.train
        yield from split.test


def _cut(path: Path, parts: list[Recording], folder: Path, first: int) -> list[Path]:
    """Write the parts of one recording to files numbered from `first`, and return their paths."""
    try:
        waveform, rate = decode(path.read_bytes())
    except CorruptFile as cause:
        raise InputError(f"{path}: {cause}; fetch it again, or remove its lines from segments") from cause
    length_s, targets = len(waveform) / rate, []
    for i, part in enumerate(parts, start=first):
        stop_s = min(part.stop_s, length_s)
        if part.start_s >= stop_s or (length_s + OVERSHOOT_S < part.stop_s < float("inf")):
            raise InputError(f"{path}: {length_s:.2f} s long, and segments has '{part.name.removesuffix('.flac')}' "
                             f"from {part.start_s:g} to {part.stop_s:g} s; fetch it again, or mend the table")
        target = folder / f"{i}.flac"
        soundfile.write(target, waveform[round(part.start_s * rate) : round(stop_s * rate)], rate, subtype="PCM_16")
        targets.append(target)
    return targets
