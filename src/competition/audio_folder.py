"""List a competition of audio files: train/<speaker>/*, test/*, and the tables that override them.

Goes in: the folder. Comes out: its speakers and utterances; no audio file is opened. utterances.csv, where it lies
there, lists the training utterances; sample_submission.csv fixes the test utterances' order. Every file in the two
folders is used, known by its name to be no audio, or named to the person.
"""

import os
from pathlib import Path

from src.base.errors import InputError
from src.base.tables import header_of, read_csv
from src.base.text import shown, some
from src.competition.file_names import AUDIO_SUFFIXES, is_audio, is_other_audio, is_unknown
from src.competition.plain_paths import plain_paths
from src.competition.submission_form import Form, matched
from src.competition.utterances import Folders, Utterance, check_paths

ENDINGS = ", ".join(AUDIO_SUFFIXES)


def list_audio(directory: Path, folders: Folders, form: Form) -> tuple[str, None, list[str], list[Utterance]]:
    """Return the kind of feature, no dimension, the speakers in alphabetical order and the utterances.

    form: what sample_submission.csv says, a form without rows where none lies there.
    """
    table_path = directory / "utterances.csv"
    if table_path.exists():
        utterances = _listed(table_path, folders)
        check_paths(folders, utterances)
    else:
        utterances = _found(directory, folders)
    speakers = sorted({utterance.speaker for utterance in utterances})
    part = folders.part("test")
    if (directory / part).is_dir() or form.rows:
        utterances += [Utterance(name, f"{part}/{name}", "test") for name in _test_names(folders, part, form)]
    return "waveform", None, speakers, utterances


def _found(directory: Path, folders: Folders) -> list[Utterance]:
    """Return the utterances that lie in train/<speaker>/; raises InputError for audio that would be left out."""
    part = folders.part("train")
    if stray := sorted(name for name in folders.files(part) if is_audio(name) or is_other_audio(name)):
        raise InputError(f"{directory / part}: {len(stray)} audio files lie outside a speaker's folder: "
                         f"{some(stray)}; move each to {part}/<speaker>/, or write utterances.csv, whose columns path "
                         f"and label say who speaks in each{_tables_beside(directory, part)}")
    folders.unknown += _unknown(folders, part)
    utterances = []
    for speaker in sorted(folders.folders(part)):
        folder = f"{part}/{speaker}"
        names = _names(folders, folder, "a speaker's; move it up, or list all training utterances in utterances.csv")
        if not names:
            raise InputError(f"{directory / folder}: no audio ({ENDINGS}) in this speaker's folder; remove it, or list "
                             "deeper folders in utterances.csv")
        folders.unknown += _unknown(folders, folder)
        utterances += [Utterance(f"{folder}/{name}", f"{folder}/{name}", "train", speaker) for name in names]
    return utterances


def _tables_beside(directory: Path, part: str) -> str:
    """Return words about tables that may say who speaks, such as train.csv; nothing where there is none."""
    tables = [path for folder in (directory, directory / part) for path in sorted(folder.glob("*.[ct]sv"))
              if path.is_file() and not path.is_symlink() and path.stem not in ("sample_submission", "solution")]
    said = [f"{path.name} ({', '.join(header_of(path)[:6])})" for path in tables]
    return f"; tables that may tell lie there: {some(said)}" if said else ""


def _names(folders: Folders, folder: str, whose: str) -> list[str]:
    """Return the audio files of `folder` in order; raises InputError for audio beside or below that is not read."""
    path, files = folders.directory / folder, folders.files(folder)
    todo = [f"{folder}/{deeper}" for deeper in sorted(folders.folders(folder), reverse=True)]
    while todo:
        deeper = todo.pop()
        if any(is_audio(name) or is_other_audio(name) for name in folders.files(deeper)):
            raise InputError(f"{folders.directory / deeper}: audio in a folder within {whose}")
        folders.unknown += _unknown(folders, deeper)
        todo += [f"{deeper}/{name}" for name in sorted(folders.folders(deeper), reverse=True)]
    if other := sorted(filter(is_other_audio, files)):
        raise InputError(f"{path}: {len(other)} audio files of a kind that is not read: {some(other)}; convert them "
                         f"(ffmpeg -i IN OUT.flac) to one of {ENDINGS}, or remove them")
    return sorted(filter(is_audio, files))


def _unknown(folders: Folders, folder: str) -> list[str]:
    """Return the paths of the files in `folder` whose names do not tell whether they are audio."""
    return [f"{folder}/{name}" for name in sorted(folders.files(folder)) if is_unknown(name)]


def _listed(table_path: Path, folders: Folders) -> list[Utterance]:
    """Return the training utterances of utterances.csv, which overrides the folders: files not listed are left out."""
    utterances, train, test = [], folders.part("train"), folders.part("test")
    table = read_csv(table_path, ("path",), ("label", "group", "text"))
    paths = plain_paths([row["path"] for row in table.values()], folders)
    for (line, row), path in zip(table.items(), paths):
        where = f"{table_path}: line {line}"
        folder, speaker = os.path.split(os.path.dirname(path))
        if f"{path}/".startswith((f"{test}/", "test/")):
            raise InputError(f"{where}: path: {shown(path)} is a test utterance; the table lists training utterances "
                             "only: remove the line")
        label = row.get("label", speaker if folder == train else "")
        if not label:
            raise InputError(f"{where}: label: none for {shown(path)}; fill the column, or leave it out and keep the "
                             "files in train/<speaker>/")
        utterances.append(Utterance(path, path, "train", label, row.get("group", ""), row.get("text", "")))
    return utterances


def _test_names(folders: Folders, part: str, form: Form) -> list[str]:
    """Return the names of the test files in the order of the submission."""
    directory = folders.directory
    present = _names(folders, part, "test/; move it up, for an Id is a file's name")
    unknown = [path.removeprefix(f"{part}/") for path in _unknown(folders, part)]
    sample_path = directory / "sample_submission.csv"
    if not present and not (form.rows and unknown):
        named = f" (give {some(unknown)} the ending of their kind)" if unknown else ""
        raise InputError(f"{directory / part}: no audio ({ENDINGS}) in the test folder{named}; put the test utterances "
                         f"there, or remove test/ and {sample_path.name} where there is no test part")
    names = list(matched(form, present, unknown, sample_path).utt_ids) if form.rows else present
    folders.unknown += [f"{part}/{name}" for name in unknown if name not in set(names)]
    return names
