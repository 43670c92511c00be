"""What lies in a competition's folder: a name under data/ or any path in, its checked list of utterances out.

The first stop of the stream; every stage that needs ids, speakers or their order asks here. Three kinds are recognised
from what lies there: "course" (metadata.json, mapping.json, testdata.json and one .pt of log-mels an utterance),
"frames" (frames.npy and frames.csv, as in data/japanese_vowels) and "audio" (train/<speaker>/*, test/*). Nothing here
opens a feature or audio file, and nothing heavy is imported, so that 64,666 utterances list in well under a second.
"""

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import InputError, SettingError, nearest
from src.tables import get, read_csv, read_json, shown, some, whole
from src.workspace import DATA_DIR

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
LOOKED_FOR = {
    "course": ("metadata.json", "mapping.json"),
    "frames": ("frames.npy", "frames.csv"),
    "audio": ("train",),
}
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # control, line ends, undecodable


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance as the competition's tables state it.

    path: relative to the competition's folder. split: "train" or "test". speaker: the class, "" for test.
    group: utterances of one group never stand on both sides of a fold; "" is a group of its own. text: transcript.
    num_frames: as stated by the tables, 0 where they do not. first_frame: its place in frames.npy, else 0.
    """

    utt_id: str
    path: str
    split: str
    speaker: str = ""
    group: str = ""
    text: str = ""
    num_frames: int = 0
    first_frame: int = 0


@dataclass(frozen=True)
class Competition:
    """A competition: training utterances first, then the test utterances in the order of the submission.

    name: the folder's, fit for a file name. kind: "course", "frames" or "audio". feature_kind: what the input holds,
    "logmel", "cepstra" or "waveform"; feature_dim: its number of values a frame, None for audio. speakers: the class
    names by index. solution_path: solution.csv (Id, Category[, Usage]) where one lies there; for scoring only.
    """

    name: str
    directory: Path
    kind: str
    feature_kind: str
    feature_dim: int | None
    speakers: tuple[str, ...]
    utterances: tuple[Utterance, ...]
    has_test: bool
    solution_path: Path | None

    @property
    def test_ids(self) -> list[str]:
        """Return the test Ids in the order of the submission."""
        return [utterance.utt_id for utterance in self.utterances if utterance.split == "test"]


def open_competition(data: str | Path) -> Competition:
    """Recognise and list the competition `data`: a name under data/, or the path of any folder.

    Raises SettingError when there is no such folder, and InputError, naming file, key and remedy, when what lies there
    is none of the three kinds, is malformed, names a missing file, or names a file outside the folder.
    """
    directory = _find(data)
    kind = _recognise(directory)
    read = {"course": _course, "frames": _frames, "audio": _audio}[kind]
    feature_kind, feature_dim, speakers, utterances = read(directory)
    _check(directory, speakers, utterances)
    solution_path = directory / "solution.csv"
    return Competition(
        name=_file_name(directory.name),
        directory=directory,
        kind=kind,
        feature_kind=feature_kind,
        feature_dim=feature_dim,
        speakers=tuple(speakers),
        utterances=tuple(utterances),
        has_test=utterances[-1].split == "test",
        solution_path=solution_path if solution_path.is_file() else None,
    )


def _find(data: str | Path) -> Path:
    named = os.fspath(data)
    if not named:
        raise SettingError("--data: name a folder under data/, or give the path of one")
    candidates = [DATA_DIR / named] if Path(named).name == named and named not in (".", "..") else []
    for candidate in [*candidates, Path(named)]:
        if candidate.is_dir():
            return Path(os.path.abspath(candidate))
    known = [entry.name for entry in DATA_DIR.iterdir() if entry.is_dir()] if DATA_DIR.is_dir() else []
    raise SettingError(f"--data {named}: no such folder, under data/ or by path"
                       f"{nearest(named, set(known) - {'cache', 'runs', 'smoke'})}")


def _recognise(directory: Path) -> str:
    """Return the kind of the competition in `directory`."""
    found = {name: (directory / name).exists() for needed in LOOKED_FOR.values() for name in needed}
    for kind, needed in LOOKED_FOR.items():
        if all(found[name] for name in needed):
            return kind
    if (directory / "utterances.csv").exists():
        return "audio"
    seen = ", ".join(f"{name} ({'found' if there else 'missing'})" for name, there in found.items())
    raise InputError(f"{directory}: no competition is recognised here; looked for {seen} and utterances.csv (missing); "
                     "data/README.md says what each kind consists of")


def _file_name(name: str) -> str:
    """Return `name` as one safe path component."""
    return re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name)).strip("._-") or "competition"


# The three kinds ------------------------------------------------------------------------------------------------------


def _course(directory: Path) -> tuple[str, int, list[str], list[Utterance]]:
    metadata_path, mapping_path, test_path = (directory / f"{name}.json"
                                              for name in ("metadata", "mapping", "testdata"))
    metadata = read_json(metadata_path)
    feature_dim = whole(metadata, "n_mels", metadata_path, 1)
    mapping = get(read_json(mapping_path), "speaker2id", dict, mapping_path)
    indices = list(mapping.values())
    if any(type(index) is not int for index in indices) or sorted(indices) != list(range(len(indices))):
        raise InputError(f"{mapping_path}: speaker2id: the {len(mapping)} speakers are not numbered "
                         f"0 to {len(mapping) - 1}, each number once")
    speakers = sorted(mapping, key=mapping.__getitem__)
    utterances = []
    for speaker, entries in get(metadata, "speakers", dict, metadata_path).items():
        if speaker not in mapping:
            raise InputError(f"{metadata_path}: speakers: '{speaker}' is missing from speaker2id in "
                             f"{mapping_path.name}; both files must be of the same competition")
        utterances += _course_entries(entries, f"speakers.{speaker}", metadata_path, "train", speaker)
    if test_path.exists():
        testdata = read_json(test_path)
        if whole(testdata, "n_mels", test_path, 1) != feature_dim:
            raise InputError(f"{test_path}: n_mels: {testdata['n_mels']}, but {metadata_path.name} says {feature_dim}")
        tests = _course_entries(get(testdata, "utterances", list, test_path), "utterances", test_path, "test", "")
        if not tests:
            raise InputError(f"{test_path}: utterances: the list is empty; remove {test_path.name} where there is no "
                             "test part")
        utterances += tests
    _check_paths(directory, utterances)
    return "logmel", feature_dim, speakers, utterances


def _course_entries(entries: Any, key: str, path: Path, split: str, speaker: str) -> list[Utterance]:
    if not isinstance(entries, list):
        raise InputError(f"{path}: {key}: {shown(entries)} is not a list of utterances")
    utterances = []
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f"{path}: {key}[{i}]: {shown(entry)} is not an object with feature_path and mel_len")
        name, num_frames = entry.get("feature_path"), entry.get("mel_len")
        if not isinstance(name, str) or type(num_frames) is not int or num_frames < 1:
            wrong = "feature_path" if not isinstance(name, str) else "mel_len"
            raise InputError(f"{path}: {key}[{i}].{wrong}: {shown(entry.get(wrong))} is not "
                             f"{'text' if wrong == 'feature_path' else 'a whole number above 0'}")
        utterances.append(Utterance(name, name, split, speaker, "", "", num_frames))
    return utterances


def _frames(directory: Path) -> tuple[str, int, list[str], list[Utterance]]:
    import numpy as np

    frames_path, table_path = directory / "frames.npy", directory / "frames.csv"
    try:
        frames = np.load(frames_path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{frames_path}: not a readable .npy array ({error}); fetch the file again") from error
    if frames.ndim != 2 or frames.dtype != np.float32 or not frames.flags.c_contiguous:
        raise InputError(f"{frames_path}: {frames.dtype} of shape {frames.shape}; it must be float32 "
                         "(total_frames, feature_dim) in C order")
    utterances, first_frame = [], 0
    for i, row in enumerate(read_csv(table_path, ("utt_id", "split", "speaker", "num_frames"))):
        where = f"{table_path}: line {i + 2}"
        if row["split"] not in ("train", "test") or bool(row["speaker"]) != (row["split"] == "train"):
            raise InputError(f"{where}: split '{row['split']}', speaker '{row['speaker']}'; split is train or test, "
                             "and training utterances alone name their speaker")
        if not re.fullmatch(r"[1-9][0-9]{0,9}", row["num_frames"]):
            raise InputError(f"{where}: num_frames: '{row['num_frames']}' is not a whole number above 0")
        utterances.append(Utterance(row["utt_id"], frames_path.name, row["split"], row["speaker"],
                                    num_frames=int(row["num_frames"]), first_frame=first_frame))
        first_frame += utterances[-1].num_frames
    if first_frame != len(frames):
        raise InputError(f"{table_path}: num_frames: the utterances have {first_frame} frames, {frames_path.name} "
                         f"{len(frames)}; both files must be of the same competition")
    _check_paths(directory, utterances[:1])
    utterances.sort(key=lambda utterance: utterance.split == "test")
    speakers = sorted({utterance.speaker for utterance in utterances if utterance.split == "train"})
    return "cepstra", frames.shape[1], speakers, utterances


def _audio(directory: Path) -> tuple[str, None, list[str], list[Utterance]]:
    folders, table_path = _Folders(directory), directory / "utterances.csv"
    if table_path.exists():
        utterances = _listed_audio(table_path)
        _check_paths(directory, utterances, folders)
    else:
        utterances = []
        for speaker in sorted(folders.folders("train")):
            names = sorted(name for name in folders.files(f"train/{speaker}") if _is_audio(name))
            if not names:
                raise InputError(f"{directory / 'train' / speaker}: no audio ({', '.join(AUDIO_SUFFIXES)}) in this "
                                 "speaker's folder; remove it, or list deeper folders in utterances.csv")
            utterances += [Utterance(f"train/{speaker}/{name}", f"train/{speaker}/{name}", "train", speaker)
                           for name in names]
    speakers = sorted({utterance.speaker for utterance in utterances})
    sample_path = directory / "sample_submission.csv"
    if (directory / "test").is_dir() or sample_path.exists():
        utterances += [Utterance(name, f"test/{name}", "test") for name in _test_audio(directory, folders, sample_path)]
    return "waveform", None, speakers, utterances


def _listed_audio(table_path: Path) -> list[Utterance]:
    """Return the training utterances of utterances.csv, which overrides the folders: files not listed are left out."""
    utterances = []
    for i, row in enumerate(read_csv(table_path, ("path",), ("label", "group", "text"))):
        where, path = f"{table_path}: line {i + 2}", row["path"]
        parts = path.split("/")
        if parts[0] == "test":
            raise InputError(f"{where}: path: '{path}' is a test utterance; the table lists training utterances only")
        folder = parts[1] if len(parts) == 3 and parts[0] == "train" else ""
        label = row.get("label", folder)
        if not label:
            raise InputError(f"{where}: label: none for '{path}'; fill the column, or leave it out and keep the files "
                             "in train/<speaker>/")
        utterances.append(Utterance(path, path, "train", label, row.get("group", ""), row.get("text", "")))
    return utterances


def _test_audio(directory: Path, folders: "_Folders", sample_path: Path) -> list[str]:
    """Return the names of the test files in the order of the submission."""
    present = {name for name in folders.files("test") if _is_audio(name)} if (directory / "test").is_dir() else set()
    if not present:
        raise InputError(f"{directory / 'test'}: no audio ({', '.join(AUDIO_SUFFIXES)}) in the test folder; put the "
                         f"test utterances there, or remove test/ and {sample_path.name} where there is no test part")
    if not sample_path.exists():
        return sorted(present)
    names = [row["Id"] for row in read_csv(sample_path, ("Id",))]
    absent, unlisted = [name for name in names if name not in present], sorted(present.difference(names))
    if absent:
        raise InputError(f"{sample_path}: Id: {len(absent)} of {len(names)} have no file in test/: {some(absent)}; "
                         "an Id is the file's name with its ending")
    if unlisted:
        raise InputError(f"{sample_path}: Id: {len(unlisted)} of {len(present)} files in test/ are not listed: "
                         f"{some(unlisted)}; add them or remove the files")
    return names


def _is_audio(name: str) -> bool:
    return name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith(".")


# Checks ---------------------------------------------------------------------------------------------------------------


class _Folders:
    """A competition's folders, each listed once; a symlink that leaves the competition is refused."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.root = directory, os.path.realpath(directory)
        self._listed: dict[str, tuple[set[str], set[str]]] = {}

    def files(self, folder: str) -> set[str]:
        return self._list(folder)[0]

    def folders(self, folder: str) -> set[str]:
        return self._list(folder)[1]

    def _list(self, folder: str) -> tuple[set[str], set[str]]:
        if folder not in self._listed:
            path = os.path.join(self.directory, folder)
            self._stay_inside(path)
            files, folders = set(), set()
            try:
                with os.scandir(path) as entries:
                    for entry in entries:
                        if entry.is_symlink():
                            self._stay_inside(entry.path)
                        if entry.is_file():
                            files.add(entry.name)
                        elif entry.is_dir() and not entry.name.startswith("."):
                            folders.add(entry.name)
            except (FileNotFoundError, NotADirectoryError):
                pass  # its files are then reported as missing, by name
            except OSError as error:
                raise InputError(f"{path}: the folder cannot be read ({error.strerror})") from error
            self._listed[folder] = files, folders
        return self._listed[folder]

    def _stay_inside(self, path: str) -> None:
        real = os.path.realpath(path)
        if real != self.root and not real.startswith(self.root + os.sep):
            raise InputError(f"{path}: a symlink that leaves the competition, to {real}; copy the file in, or link the "
                             "competition's whole folder instead")


def _check_paths(directory: Path, utterances: list[Utterance], folders: _Folders | None = None) -> None:
    """Raise InputError for a path that could leave the folder, and for files that are not there."""
    folders, missing = folders or _Folders(directory), []
    for path in (utterance.path for utterance in utterances):
        folder, _, name = path.rpartition("/")
        if UNSAFE.search(path) or any(part in ("", ".", "..") for part in path.split("/")):
            raise InputError(f"{directory}: {path!r}: not a plain path inside the competition; it must be relative, "
                             "without '..', empty parts or control characters")
        if name not in folders.files(folder):
            missing.append(path)
    if missing:
        raise InputError(f"{directory}: {len(missing)} of {len(utterances)} files are missing: {some(missing)}; "
                         "fetch or unpack the data again")


def _check(directory: Path, speakers: list[str], utterances: list[Utterance]) -> None:
    train = [utterance for utterance in utterances if utterance.split == "train"]
    heard = {utterance.speaker for utterance in train}
    if not train:
        raise InputError(f"{directory}: no training utterances")
    if len(heard) < 2:
        raise InputError(f"{directory}: only one speaker, '{train[0].speaker}'; identification needs two or more")
    _check_names(directory, "speaker", speakers)
    _check_names(directory, "utterance id", [utterance.utt_id for utterance in utterances])


def _check_names(directory: Path, what: str, names: Iterable[str]) -> None:
    """Raise InputError for a name that is empty, cannot stand on one line, or equals another as Unicode text."""
    seen: set[str] = set()
    for name in names:
        if not name or UNSAFE.search(name) or name != name.strip():
            raise InputError(f"{directory}: {what} {name!r}: empty, or with control characters or spaces around it")
        normal = name if name.isascii() else unicodedata.normalize("NFC", name)
        if normal in seen:
            raise InputError(f"{directory}: {what} {name!r} stands there twice (names are compared after Unicode NFC "
                             "normalisation); rename or remove one")
        seen.add(normal)
