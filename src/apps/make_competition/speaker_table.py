"""Tables of a corpus that say who speaks in which file: Common Voice's, and any CSV with a column of speakers.

Goes in: the corpus' folder and the audio files in it. Comes out: its recordings. Common Voice's validated.tsv goes
before the folders; any other table is asked only where the folders tell no speakers.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from src.apps.make_competition.corpus_recording import Recording
from src.base.errors import InputError
from src.base.tables import header_of
from src.base.text import shown

SPEAKER_COLUMNS = ("client_id", "speaker_id", "speakerid", "speaker", "spk_id", "spkid", "spk", "speaker_name")
PATH_COLUMNS = ("path", "file_path", "filepath", "file_name", "filename", "file", "audio_path", "audio_file", "audio",
                "wav_path", "wav", "clip", "utt_id", "utterance_id", "utterance", "id")
COMMON_VOICE = "validated.tsv"


@dataclass(frozen=True)
class Table:
    """A table of utterances and the names of its two columns."""

    path: Path
    speaker_column: str
    path_column: str


def find_tables(directory: Path) -> list[Table]:
    """Return the tables in `directory` that have a column of speakers and one of files, by name."""
    tables = []
    for path in sorted(directory.glob("*.[ct]sv")):
        columns = {name.strip().lower(): name for name in (header_of(path) if path.is_file() else [])}
        speaker = next((columns[name] for name in SPEAKER_COLUMNS if name in columns), None)
        named = next((columns[name] for name in PATH_COLUMNS if name in columns), None)
        if speaker and named:
            tables.append(Table(path, speaker, named))
    return tables


def common_voice(directory: Path) -> list[Table]:
    """Return the tables of Common Voice's validated clips in `directory`, or of each language in folders below it."""
    found = [path for above in ("", "*/", "*/*/") for path in sorted(directory.glob(above + COMMON_VOICE))]
    return [table for path in found for table in find_tables(path.parent) if table.path == path]


def tabled(tables: list[Table], files: Iterable[Path]) -> tuple[list[Recording], int]:
    """Return the recordings that tables list, and how many rows name a file that is not there.

    A row's file is meant by its path from the table, or by its name, with or without the ending. Raises InputError for
    a file of two speakers and for tables of which no file is there.
    """
    by_name: dict[str, list[Path]] = {}
    for file in files:
        for name in {file.name, file.stem}:
            by_name.setdefault(name, []).append(file)
    speakers: dict[Path, str] = {}
    num_missing = 0
    for table in tables:
        for line, named, speaker in _rows(table):
            path = _meant(table.path.parent, named, by_name)
            if path is None or not speaker:
                num_missing += 1
            elif speakers.setdefault(path, speaker) != speaker:
                raise InputError(f"{table.path}: line {line}: {named} is of {shown(speaker)}, and of "
                                 f"{shown(speakers[path])} before; mend the table")
    if not speakers:
        raise InputError(f"{tables[0].path}: none of the {num_missing:,} files in its column {tables[0].path_column} "
                         "is there; unpack the audio into the same folder")
    return [Recording(path, speaker, "", path.name) for path, speaker in speakers.items()], num_missing


def _rows(table: Table) -> Iterable[tuple[int, str, str]]:
    """Yield the line, file and speaker of each row; raises InputError for what is no table."""
    is_tsv = table.path.suffix.lower() == ".tsv"  # whose quotation marks are part of the sentences
    try:
        with open(table.path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if is_tsv else ",",
                                    quoting=csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL)
            for row in reader:
                yield reader.line_num, row[table.path_column] or "", (row[table.speaker_column] or "").strip()
    except (OSError, ValueError, csv.Error, KeyError) as error:
        raise InputError(f"{table.path}: not a table with the columns {table.path_column} and {table.speaker_column} "
                         f"({error}); fetch it again") from error


def _meant(folder: Path, named: str, by_name: dict[str, list[Path]]) -> Path | None:
    """Return the file that a row names, None for one that is not there or could be several."""
    named = named.strip().replace("\\", "/")
    candidates = by_name.get(named.rpartition("/")[2], [])
    if len(candidates) == 1:
        return candidates[0]
    ending = f"/{named.removeprefix('./')}"
    exact = [path for path in candidates if str(path).endswith(ending)]
    nearest = [path for path in exact or candidates if path.is_relative_to(folder)]
    return nearest[0] if len(nearest) == 1 else exact[0] if len(exact) == 1 else None
