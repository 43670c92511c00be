"""What lies in a folder that is no competition: the one a level deeper, or what to type for what is there.

Goes in: a folder that --data names, and how competitions are recognised. Comes out: the folder that was meant, or
words for the error. No audio file is opened.
"""

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from src.base.errors import SpeakerIDError
from src.base.text import some
from src.competition.file_names import is_audio, is_nobody

DEEPEST = 3  # levels below the folder that was named
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
TRAIN_NAMES = ("training", "train_data", "traindata", "train-data", "train_set", "trainset", "train_audio",
               "training_data")


def inner_folder(directory: Path, recognise: Callable[[Path], str]) -> Path | None:
    """Return the competition that lies alone in `directory`, as archives unpack; None where other folders lie there."""
    for _ in range(DEEPEST):
        inside = list(_folders(directory))
        if len(inside) != 1:
            return None
        directory = inside[0]
        if _is_competition(directory, recognise):
            return directory
    return None


def what_lies_there(directory: Path, recognise: Callable[[Path], str]) -> str:
    """Return words, ending in "; ", for what lies in a folder that is no competition and what to type for it."""
    inside = list(_folders(directory))
    if meant := [path for path in inside if _is_competition(path, recognise)]:
        return f"did you mean {' or '.join(str(path) for path in meant[:5])}?; "
    make = f"`bash run.sh make-competition {shlex.quote(str(directory))} data/NAME` makes a competition of it; "
    if any(all((folder / name).is_file() for name in ("wav.scp", "utt2spk")) for folder in (directory, *inside)):
        return f"tables of Kaldi (wav.scp, utt2spk) lie there: {make}"
    if any((folder / "validated.tsv").is_file() for folder in (directory, *inside)):
        return f"Common Voice's tables (validated.tsv) lie there: {make}"
    if renamed := [path.name for path in inside if path.name.lower() in TRAIN_NAMES]:
        return f"{renamed[0]}/ lies there: where it holds the speakers' folders, rename it to train; "
    if voices := [path.name for path in inside if _holds_audio(path)]:
        return f"audio lies in {some(sorted(voices))}, as in a corpus: {make}"
    names = _names(directory)
    if audio := sorted(filter(is_audio, names)):
        return (f"{len(audio):,} audio files lie in no speaker's folder: put them into train/<speaker>/, or list them "
                "in utterances.csv (path, label); ")
    if packed := sorted(name for name in names if name.lower().endswith(ARCHIVES)):
        return f"{some(packed)} lies there: unpack it first; "
    return ""


def _is_competition(directory: Path, recognise: Callable[[Path], str]) -> bool:
    try:
        return bool(recognise(directory))
    except (OSError, SpeakerIDError):
        return False


def _holds_audio(directory: Path) -> bool:
    """Return whether audio lies in a folder, or in the first folders within it."""
    for _ in range(DEEPEST):
        if any(map(is_audio, _names(directory))):
            return True
        inside = next(_folders(directory), None)
        if inside is None:
            return False
        directory = inside
    return False


def _folders(directory: Path) -> Iterator[Path]:
    """Yield the folders in `directory`, by name, that are neither hidden nor known to be nobody's."""
    for name in sorted(_names(directory)):
        path = directory / name
        if not name.startswith(".") and not is_nobody(name) and path.is_dir():
            yield path


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
