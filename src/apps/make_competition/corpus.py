"""Speakers, sessions and utterances of a speech corpus, found from its tables or from how its folders are laid out.

Goes in: a corpus' folder. Comes out: its utterances, each with its speaker and, where something tells, its session.
Used by make_competition; no audio file is opened here. Kaldi's tables and Common Voice's go before folders
(kaldi_tables, speaker_table); of folders, speaker_level finds which are the speakers'; where none is, other tables are
asked.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from src.apps.make_competition.corpus_recording import Recording
from src.apps.make_competition.corpus_words import NOISE, PARTS
from src.apps.make_competition.folder_walk import NoSpeakers, Parts
from src.apps.make_competition.kaldi_tables import has_tables, read_tables
from src.apps.make_competition.speaker_level import find_speakers
from src.apps.make_competition.speaker_table import Table, common_voice, find_tables, tabled
from src.base.errors import InputError, SettingError
from src.base.tables import header_of
from src.base.text import some
from src.competition.file_names import AUDIO_SUFFIXES, is_audio, is_nobody, is_other_audio, is_unknown


@dataclass(frozen=True)
class Corpus:
    """What a corpus' folder holds: the layout in words, its recordings by speaker, and what was left out.

    where: where the speakers stand, in words. hint: what else could be the speakers, "" for nothing. num_strays: audio
    files that belong to nobody. num_missing: rows of a table whose file is not there. others, unknown: how many files
    there are of audio that is not read and of no known kind, by ending. nobody: folders left out, for their names are
    known to be no speaker's.
    """

    directory: Path
    layout: str
    where: str
    hint: str
    recordings: tuple[Recording, ...]
    num_strays: int
    num_missing: int
    others: dict[str, int]
    unknown: dict[str, int]
    nobody: tuple[str, ...]

    @property
    def speakers(self) -> list[str]:
        """Return the speakers' names in their order."""
        return sorted({recording.speaker for recording in self.recordings})


def open_corpus(directory: str | Path, level: int | None = None) -> Corpus:
    """Recognise and list the corpus in `directory`.

    level: at which the speakers' folders stand (1: in `directory`), where a person says so; else it is found.
    Raises SettingError where there is no such folder, and InputError, with counts, for one without speakers or audio,
    for tables that contradict themselves or name missing files, and for two files that would be the same utterance.
    """
    directory = Path(os.path.abspath(directory))
    if not directory.is_dir():
        raise SettingError(f"{directory}: no such folder; give the corpus' own")
    folders = [folder for folder in (directory, *(directory / part for part in sorted(PARTS))) if has_tables(folder)]
    other, unknown, nobody, num_missing, hint = Counter(), Counter(), [], 0, ""
    if folders and level is None:
        recordings = read_tables(directory, folders)
        layout = "tables wav.scp and utt2spk" + (", cut by segments" if any(r.is_part for r in recordings) else "")
        where, num_strays = "in utt2spk", 0
    else:
        files = list(_audio_files(directory, other, unknown, nobody))
        tables = common_voice(directory) if level is None else []
        if not tables:
            try:
                layout, where, hint, recordings = _by_folders(directory, files, level)
            except NoSpeakers as error:
                tables = find_tables(directory) if level is None else []
                if not tables:
                    advice = "" if level else _advice(directory, files)
                    raise InputError(f"{directory}: {error}{advice}") from error
        if tables:
            layout, where = f"table {some([table.path.name for table in tables])}", _in_column(tables)
            recordings, num_missing = tabled(tables, [directory.joinpath(*parts) for parts in files])
        num_strays = len(files) - len(recordings)
    return Corpus(directory, layout, where, hint, _in_order(recordings), num_strays, num_missing, dict(other),
                  dict(unknown), tuple(nobody))


def _in_order(recordings: list[Recording]) -> tuple[Recording, ...]:
    """Return the recordings by speaker, session and name; raises InputError for two that would be the same."""
    seen: dict[tuple[str, str, str], Recording] = {}
    for recording in recordings:
        key = recording.speaker, recording.session, recording.name
        if seen.setdefault(key, recording).path != recording.path:
            raise InputError(f"{recording.path}: the same speaker, session and name as {seen[key].path}; rename or "
                             "remove one, or give the folder of one part of the corpus")
    return tuple(seen[key] for key in sorted(seen))


def _in_column(tables: list[Table]) -> str:
    return f"in the column {tables[0].speaker_column} of {some([table.path.name for table in tables])}"


def _advice(directory: Path, files: list[Parts]) -> str:
    """Return what to do with a corpus whose folders tell no speakers, and whose tables have no column of them."""
    seen = [f"{path.name} ({', '.join(header_of(path)[:6])})" for path in sorted(directory.glob("*.[ct]sv"))]
    stands = f"; tables lie there whose columns are not understood: {some(seen)}" if seen else ""
    begins = Counter(parts[-1].replace("-", "_").partition("_")[0] for parts in files)
    may = f"; the speaker may be what begins the files' names: {some(sorted(begins))}"
    return (f"{stands}; write a table speakers.csv into the folder, with a row for each file and the columns path and "
            f"speaker{may if 1 < len(begins) <= len(files) / 2 else ''}")


def _audio_files(directory: Path, other: Counter, unknown: Counter, nobody: list[str]) -> Iterator[Parts]:
    """Yield the audio files at any depth as path parts; linked folders are followed, each real folder once.

    `other` counts audio of kinds that are not read, by ending, `unknown` files of no known kind; `nobody` gets the
    folders that are known to be no speaker's. Raises InputError where there is no audio that is read, or a folder
    cannot be read.
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
                found = list(entries)
            inside = {entry.name.lower() for entry in found}
            for entry in found:
                if entry.is_dir() and _is_left_out(entry.name, inside):
                    nobody.append("/".join((*parts, entry.name)))
                elif not entry.name.startswith("."):
                    if entry.is_dir():
                        todo.append((*parts, entry.name))
                    elif is_audio(entry.name) and entry.is_file():
                        num_found += 1
                        yield (*parts, entry.name)
                    elif is_other_audio(entry.name):
                        other[os.path.splitext(entry.name)[1].lower()] += 1
                    elif is_unknown(entry.name):
                        unknown[os.path.splitext(entry.name)[1].lower() or "no ending"] += 1
        except OSError as error:
            raise InputError(f"{folder}: the folder cannot be read ({error.strerror}); make it readable") from error
    if not num_found:
        found = "".join(f"; {number:,} files end in {suffix}: convert them first (such as `ffmpeg -i x{suffix} x.flac`)"
                        for suffix, number in other.most_common(1)) or (
                            f"; files of no known kind lie there: {some(sorted(unknown))}" if unknown else "")
        raise InputError(f"{directory}: no audio ({', '.join(AUDIO_SUFFIXES)}) here or in deeper folders{found or ''}"
                         f"{'' if found else '; give the folder that holds the speakers'}")


def _is_left_out(name: str, beside: set[str]) -> bool:
    """Return whether a folder is known to be no speaker's: by its name, and `other` as the background noise's."""
    return is_nobody(name) or name.lower() in NOISE or (name.lower() == "other" and "_background_noise_" in beside)


def _by_folders(directory: Path, files: list[Parts], level: int | None) -> tuple[str, str, str, list[Recording]]:
    """Return the layout, where the speakers stand, a hint and the recordings; raises NoSpeakers for none."""
    found = find_speakers(files, level)
    recordings = [Recording(directory.joinpath(*parts), place.speaker, place.session, place.name)
                  for parts, place in found.places.items()]
    return found.layout, found.where, found.hint, recordings
