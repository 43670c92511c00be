"""Kaldi's tables of a corpus: wav.scp and utt2spk, as speechocean762 brings them, and segments.

Goes in: the folders that hold them. Comes out: the corpus' recordings, each a file or a part of one. No audio is
opened, and a command in wav.scp is never run.
"""

import math
import os
from pathlib import Path

from src.apps.make_competition.corpus_recording import Recording
from src.base.errors import InputError
from src.base.text import shown, some
from src.competition.file_names import is_audio


def has_tables(folder: Path) -> bool:
    """Return whether Kaldi's wav.scp and utt2spk lie in a folder."""
    return (folder / "wav.scp").is_file() and (folder / "utt2spk").is_file()


def read_tables(directory: Path, folders: list[Path]) -> list[Recording]:
    """Return the recordings that Kaldi's tables list; paths are relative to the corpus or to the table.

    Where `segments` lies beside them, utterances are parts of recordings, and the recording is the session.
    """
    recordings, missing, num_named = [], [], 0
    for folder in folders:
        speakers = dict(_pairs(folder / "utt2spk"))
        parts = _segments(folder / "segments")
        _check_channels(folder / "reco2file_and_channel")
        for key, named in _pairs(folder / "wav.scp"):
            if named.endswith("|"):
                raise InputError(f"{folder / 'wav.scp'}: '{key}' is the output of a command, which is not run; "
                                 "write the audio to files first")
            path, num_named = _path(named, directory, folder), num_named + 1
            if path is None:
                missing.append(named)
            for utt_id, start_s, stop_s in [(key, 0.0, 0.0)] if parts is None else parts.pop(key, []):
                if utt_id not in speakers:
                    raise InputError(f"{folder / ('wav.scp' if parts is None else 'segments')}: '{utt_id}' has no "
                                     "speaker in utt2spk; both must be of the same corpus")
                if path is None:
                    continue
                name = utt_id.replace("/", "_") + (path.suffix.lower() if parts is None else ".flac")
                session = "" if parts is None else key.replace("/", "_")
                recordings.append(Recording(path, speakers[utt_id], session, name, start_s, stop_s))
        if parts and not missing:
            raise InputError(f"{folder / 'segments'}: {len(parts):,} recordings are not in wav.scp: "
                             f"{some(list(parts))}; both must be of the same corpus")
    if missing:
        raise InputError(f"{directory}: {len(missing):,} of {num_named:,} files that wav.scp names are missing or no "
                         f"audio: {some(missing)}; unpack the corpus again")
    return recordings


def _path(named: str, directory: Path, folder: Path) -> Path | None:
    """Return the audio file that a line of wav.scp names, None where it is not there."""
    spellings = dict.fromkeys((named, named.replace("\\", "/")))
    paths = [root / text for text in spellings for root in (directory, folder)]
    return next((path for path in paths if path.is_file() and is_audio(path.name)), None)


def _segments(path: Path) -> dict[str, list[tuple[str, float, float]]] | None:
    """Return {recording: [(utt_id, start_s, stop_s)]} of Kaldi's segments; None where there is no such table."""
    if not os.path.lexists(path):
        return None
    parts: dict[str, list[tuple[str, float, float]]] = {}
    for utt_id, rest in _pairs(path):
        fields = rest.split()
        try:
            key, start_s, stop_s = fields[0], float(fields[1]), float(fields[2])
        except (ValueError, IndexError) as error:
            raise InputError(f"{path}: '{utt_id}': {shown(rest)} is not a recording with start and end in seconds; "
                             "mend it") from error
        stop_s = math.inf if stop_s == -1 else stop_s  # to the end
        if not 0 <= start_s < stop_s:
            raise InputError(f"{path}: '{utt_id}': from {start_s:g} to {stop_s:g} s is no part of a recording; mend it")
        parts.setdefault(key, []).append((utt_id, start_s, stop_s))
    return parts


def _check_channels(path: Path) -> None:
    """Raise InputError where recordings are channels of files: their mean would hold several speakers."""
    if path.is_file() and (several := [key for key, rest in _pairs(path) if rest.split()[-1] not in ("A", "1", "0")]):
        raise InputError(f"{path}: {some(several)} are second channels of their files; write each channel to a file of "
                         "its own (ffmpeg -i IN -map_channel 0.0.1 OUT.flac) and name it in wav.scp")


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
