"""Speakers, sessions and utterances of a speech corpus, found from how its folders are laid out.

Goes in: a corpus' folder. Comes out: its utterances, each with its speaker and, where the layout tells, its session.
Used by make_competition; no audio file is opened here. Tables in Kaldi's form (wav.scp and utt2spk, as speechocean762
brings them) go before folders; LibriSpeech and VoxCeleb are told by their names at any depth; anything else is taken as
SPEAKER/file or SPEAKER/SESSION/file.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from src.base.errors import InputError, SettingError
from src.base.text import some
from src.competition.utterances import AUDIO_SUFFIXES, is_audio, is_other_audio

WRAPPERS = {"wav", "wavs", "wave", "audio", "flac"}  # folders that are no speaker's, though files lie in them
PARTS = {"train", "training", "dev", "test", "testing", "val", "valid", "validation", "eval"}
VOXCELEB_SPEAKER = re.compile(r"id\d{5,}")


@dataclass(frozen=True, slots=True)
class Recording:
    """One utterance of a corpus.

    path: where its file lies. speaker: as the corpus names them. session: "" where the layout tells none; otherwise
    unique within its speaker. name: a file name, unique within its speaker and session.
    """

    path: Path
    speaker: str
    session: str
    name: str


@dataclass(frozen=True)
class Corpus:
    """What a corpus' folder holds: the layout in words, its recordings by speaker, and what was left out.

    num_strays: audio files that belong to nobody. num_others: files of audio of a kind that is not read.
    """

    directory: Path
    layout: str
    recordings: tuple[Recording, ...]
    num_strays: int
    num_others: int


def open_corpus(directory: str | Path) -> Corpus:
    """Recognise and list the corpus in `directory`.

    Raises SettingError where there is no such folder, and InputError, with counts, for one without speakers or audio,
    for tables that contradict themselves or name missing files, and for two files that would be the same utterance.
    """
    directory = Path(os.path.abspath(directory))
    if not directory.is_dir():
        raise SettingError(f"{directory}: no such folder; give the corpus' own")
    tables = [folder for folder in (directory, *(directory / part for part in sorted(PARTS)))
              if (folder / "wav.scp").is_file() and (folder / "utt2spk").is_file()]
    other = Counter()
    if tables:
        layout, recordings, num_strays = "tables wav.scp and utt2spk", _tabled(directory, tables), 0
    else:
        files = list(_audio_files(directory, other))
        layout, recordings = _by_folders(directory, files)
        num_strays = len(files) - len(recordings)
    seen: dict[tuple[str, str, str], Path] = {}
    for recording in recordings:
        key = recording.speaker, recording.session, recording.name
        if seen.setdefault(key, recording.path) != recording.path:
            raise InputError(f"{recording.path}: the same speaker, session and name as {seen[key]}; rename or remove "
                             "one, or give the folder of one part of the corpus")
    recordings = {(r.speaker, r.session, r.name): r for r in recordings}.values()
    return Corpus(directory, layout, tuple(sorted(recordings, key=lambda r: (r.speaker, r.session, r.name))),
                  num_strays, other.total())


def _audio_files(directory: Path, other: Counter) -> Iterator[tuple[str, ...]]:
    """Yield the audio files at any depth as path parts; linked folders are followed, each real folder once.

    `other` counts audio of kinds that are not read, by ending. Raises InputError where there is none that is, or a
    folder cannot be read.
    """
    num_found, visited, todo = 0, set(), [()]
    while todo:
        parts = todo.pop()
        folder = os.path.join(directory, *parts)
        if (real := os.path.realpath(folder)) in visited:
            continue
        visited.add(real)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        todo.append((*parts, entry.name))
                    elif is_audio(entry.name) and entry.is_file():
                        num_found += 1
                        yield (*parts, entry.name)
                    elif is_other_audio(entry.name):
                        other[os.path.splitext(entry.name)[1].lower()] += 1
        except OSError as error:
            raise InputError(f"{folder}: the folder cannot be read ({error.strerror}); make it readable") from error
    if not num_found:
        found = "".join(f"; {number:,} files end in {suffix}: convert them first (such as `ffmpeg -i x{suffix} x.flac`)"
                        for suffix, number in other.most_common(1))
        raise InputError(f"{directory}: no audio ({', '.join(AUDIO_SUFFIXES)}) here or in deeper folders{found or ''}"
                         f"{'' if found else '; give the folder that holds the speakers'}")


def _by_folders(directory: Path, files: list[tuple[str, ...]]) -> tuple[str, list[Recording]]:
    """Return the layout and the recordings of files given as path parts; files that do not fit it are left out."""
    for layout, fits in (("VoxCeleb, speaker/video/file", _is_voxceleb),
                         ("LibriSpeech, speaker/chapter/file", _is_librispeech)):
        fitting = [parts for parts in files if fits(parts)]
        if 2 * len(fitting) > len(files):
            return layout, [Recording(directory.joinpath(*parts), *parts[-3:]) for parts in fitting]
    top = {parts[0] for parts in files if len(parts) > 1}
    lowered = {name.lower() for name in top}
    is_parted = bool(top) and lowered <= PARTS
    if len(top) == 1 and ((any(len(parts) > 2 for parts in files) and not is_parted) or lowered <= WRAPPERS):
        wrapper = top.pop()  # a lone folder is no speaker
        layout, recordings = _by_folders(directory / wrapper, [parts[1:] for parts in files if len(parts) > 1])
        return f"{layout} in {wrapper}/", recordings
    if not top:
        raise InputError(f"{directory}: its {len(files):,} audio files lie in no speaker's folder; one folder a "
                         "speaker is needed")
    if is_parted:
        raise InputError(f"{directory}: its folders are named {', '.join(sorted(top))}, which are no speakers; give "
                         f"one of them, such as {directory / min(top)}")
    recordings = [Recording(directory.joinpath(*parts), parts[0], "/".join(parts[1:-1]), parts[-1])
                  for parts in files if len(parts) > 1]
    return "speaker/session/file" if any(r.session for r in recordings) else "speaker/file", recordings


def _is_voxceleb(parts: tuple[str, ...]) -> bool:
    return len(parts) >= 3 and VOXCELEB_SPEAKER.fullmatch(parts[-3]) is not None


def _is_librispeech(parts: tuple[str, ...]) -> bool:
    return len(parts) >= 3 and parts[-2].isdigit() and parts[-1].startswith(f"{parts[-3]}-{parts[-2]}-")


def _tabled(directory: Path, folders: list[Path]) -> list[Recording]:
    """Return the recordings that Kaldi's tables list; paths are relative to the corpus or to the table."""
    recordings, missing = [], []
    for folder in folders:
        speakers = dict(_pairs(folder / "utt2spk"))
        for utt_id, named in _pairs(folder / "wav.scp"):
            if utt_id not in speakers:
                raise InputError(f"{folder / 'wav.scp'}: '{utt_id}' has no speaker in utt2spk; both must be of the "
                                 "same corpus")
            if named.endswith("|"):
                raise InputError(f"{folder / 'wav.scp'}: '{utt_id}' is the output of a command, which is not run; "
                                 "write the audio to files first")
            path = next((path for path in (directory / named, folder / named) if path.is_file()), None)
            if path is None or not is_audio(path.name):
                missing.append(named)
            else:
                name = utt_id.replace("/", "_") + path.suffix.lower()
                recordings.append(Recording(path, speakers[utt_id], "", name))
    if missing:
        raise InputError(f"{directory}: {len(missing):,} of {len(missing) + len(recordings):,} files that wav.scp "
                         f"names are missing or no audio: {some(missing)}; unpack the corpus again")
    return recordings


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Return the lines of a table as (key, rest); raises InputError for a line without both and a key that repeats."""
    pairs: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); unpack the corpus again") from error
    for number, line in enumerate(lines, start=1):
        fields = line.split(maxsplit=1)
        if len(fields) != 2 or fields[0] in pairs:
            fault = "a key that stands there twice" if fields[1:] else "no key and value"
            raise InputError(f"{path}: line {number}: {fault}; unpack the corpus again")
        pairs[fields[0]] = fields[1].strip()
    return list(pairs.items())
