"""List a competition of audio files: train/<speaker>/*, test/*, and the tables that override them.

Goes in: the folder. Comes out: its speakers and utterances; no audio file is opened. utterances.csv, where it lies
there, lists the training utterances; sample_submission.csv fixes the test ids and their order.
"""

import unicodedata
from pathlib import Path

from src.base.errors import InputError
from src.base.tables import read_csv
from src.base.text import shown, some
from src.competition.utterances import AUDIO_SUFFIXES, Folders, Utterance, check_paths, is_audio, is_other_audio

ENDINGS = ", ".join(AUDIO_SUFFIXES)


def list_audio(directory: Path, folders: Folders) -> tuple[str, None, list[str], list[Utterance]]:
    """Return the kind of feature, no dimension, the speakers in alphabetical order and the utterances."""
    table_path = directory / "utterances.csv"
    if table_path.exists():
        utterances = _listed(table_path)
        check_paths(folders, utterances)
    else:
        utterances = _found(directory, folders)
    speakers = sorted({utterance.speaker for utterance in utterances})
    sample_path = directory / "sample_submission.csv"
    if (directory / "test").is_dir() or sample_path.exists():
        utterances += [Utterance(name, f"test/{name}", "test") for name in _test_names(directory, folders, sample_path)]
    return "waveform", None, speakers, utterances


def _found(directory: Path, folders: Folders) -> list[Utterance]:
    """Return the utterances that lie in train/<speaker>/; raises InputError for audio that would be left out."""
    if stray := sorted(filter(is_audio, folders.files("train"))):
        raise InputError(f"{directory / 'train'}: {len(stray)} audio files lie outside a speaker's folder: "
                         f"{some(stray)}; move each to train/<speaker>/")
    utterances = []
    for speaker in sorted(folders.folders("train")):
        folder = f"train/{speaker}"
        names = _names(folders, folder, "a speaker's; move it up, or list all training utterances in utterances.csv")
        if not names:
            raise InputError(f"{directory / folder}: no audio ({ENDINGS}) in this speaker's folder; remove it, or list "
                             "deeper folders in utterances.csv")
        utterances += [Utterance(f"{folder}/{name}", f"{folder}/{name}", "train", speaker) for name in names]
    return utterances


def _names(folders: Folders, folder: str, whose: str) -> list[str]:
    """Return the audio files of `folder` in order; raises InputError for audio beside or below that is not read."""
    path, files = folders.directory / folder, folders.files(folder)
    for deeper in sorted(folders.folders(folder)):
        if any(is_audio(name) or is_other_audio(name) for name in folders.files(f"{folder}/{deeper}")):
            raise InputError(f"{path / deeper}: audio in a folder within {whose}")
    if other := sorted(filter(is_other_audio, files)):
        raise InputError(f"{path}: {len(other)} audio files of a kind that is not read: {some(other)}; convert them "
                         f"(ffmpeg -i IN OUT.flac) to one of {ENDINGS}, or remove them")
    return sorted(filter(is_audio, files))


def _listed(table_path: Path) -> list[Utterance]:
    """Return the training utterances of utterances.csv, which overrides the folders: files not listed are left out."""
    utterances = []
    for line, row in read_csv(table_path, ("path",), ("label", "group", "text")).items():
        where, path = f"{table_path}: line {line}", row["path"]
        parts = path.split("/")
        if parts[0] == "test":
            raise InputError(f"{where}: path: {shown(path)} is a test utterance; the table lists training utterances "
                             "only: remove the line")
        folder = parts[1] if len(parts) == 3 and parts[0] == "train" else ""
        label = row.get("label", folder)
        if not label:
            raise InputError(f"{where}: label: none for {shown(path)}; fill the column, or leave it out and keep the "
                             "files in train/<speaker>/")
        utterances.append(Utterance(path, path, "train", label, row.get("group", ""), row.get("text", "")))
    return utterances


def _test_names(directory: Path, folders: Folders, sample_path: Path) -> list[str]:
    """Return the names of the test files in the order of the submission."""
    present = _names(folders, "test", "test/; move it up, for an Id is a file's name")
    if not present:
        raise InputError(f"{directory / 'test'}: no audio ({ENDINGS}) in the test folder; put the test utterances "
                         f"there, or remove test/ and {sample_path.name} where there is no test part")
    if not sample_path.exists():
        return present
    found, names = set(present), [row["Id"] for row in read_csv(sample_path, ("Id",)).values()]
    absent, unlisted = [name for name in names if name not in found], sorted(found.difference(names))
    if absent:
        texts = {unicodedata.normalize("NFC", name) for name in present}
        is_spelling = all(unicodedata.normalize("NFC", name) in texts for name in absent)
        raise InputError(f"{sample_path}: Id: {len(absent)} of {len(names)} have no file in test/: {some(absent)}; " + (
            "files of these names are there in another Unicode form (unpacked on a Mac?): rename them to the Ids"
            if is_spelling else "an Id is the file's name with its ending"))
    if unlisted:
        raise InputError(f"{sample_path}: Id: {len(unlisted)} of {len(present)} files in test/ are not listed: "
                         f"{some(unlisted)}; add them or remove the files")
    return names
