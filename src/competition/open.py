"""What lies in a competition's folder: a name under data/ or any path in, its checked list of utterances out.

The first stop of the stream; every stage that needs ids, speakers or their order asks here. Three kinds are recognised
from what lies there: "course" (metadata.json, mapping.json, testdata.json and one .pt of log-mels an utterance),
"frames" (frames.npy and frames.csv, as in data/japanese_vowels) and "audio" (train/<speaker>/*, test/*). Nothing here
opens a feature or audio file, and nothing heavy is imported, so that 64,666 utterances list in well under a second.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from src.base.errors import InputError, SettingError, nearest
from src.base.workspace import DATA_DIR
from src.competition.audio_folder import list_audio
from src.competition.course import is_course_data, list_course
from src.competition.frames import list_frames
from src.competition.names import file_name, folder_of, name_of
from src.competition.utterances import Folders, Utterance, check_names

COURSE, OTHER_YEARS = "ml2022spring-hw4", ("ml2023spring-hw4",)  # the course's competitions on kaggle.com
NO_SCORE = "SPEAKER_ID_NO_SCORE"  # set to 1, no solution is read and no score printed
LOOKED_FOR = {
    "course": ("metadata.json", "mapping.json"),
    "frames": ("frames.npy", "frames.csv"),
    "audio": ("train",),
}
TABLES = ("metadata.json", "mapping.json", "testdata.json", "frames.npy", "frames.csv", "utterances.csv",
          "sample_submission.csv", "solution.csv")


@dataclass(frozen=True)
class Competition:
    """A competition: training utterances first, then the test utterances in the order of the submission.

    name: see competition/names.py. kind: "course", "frames" or "audio". feature_kind: what the input holds,
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
    folders = Folders(directory)
    folders.check_tables(TABLES)
    kind = _recognise(directory)
    read = {"course": list_course, "frames": list_frames, "audio": list_audio}[kind]
    feature_kind, feature_dim, speakers, utterances = read(directory, folders)
    _check(directory, speakers, utterances)
    return Competition(
        name=name_of(directory),
        directory=directory,
        kind=kind,
        feature_kind=feature_kind,
        feature_dim=feature_dim,
        speakers=tuple(speakers),
        utterances=tuple(utterances),
        has_test=utterances[-1].split == "test",
        solution_path=_solution(directory),
    )


def _solution(directory: Path) -> Path | None:
    """Return the solution that lies in a folder, unless it is hidden."""
    path = directory / "solution.csv"
    return path if path.is_file() and not is_hidden() else None


def is_hidden() -> bool:
    """Return whether SPEAKER_ID_NO_SCORE=1 hides solutions, while choices are made."""
    return os.environ.get(NO_SCORE, "") not in ("", "0")


def _find(data: str | Path) -> Path:
    named = os.fspath(data)
    if not named:
        raise SettingError("--data: name a folder under data/, or give the path of one")
    candidates = [DATA_DIR / named] if Path(named).name == named and named not in (".", "..") else []
    for candidate in [*candidates, Path(named)]:
        if os.path.isdir(candidate):  # Path.is_dir raises for a name that is too long
            directory = Path(os.path.abspath(candidate))
            if not os.access(directory, os.R_OK | os.X_OK):
                raise InputError(f"{directory}: the folder cannot be read (Permission denied); make it readable")
            return directory
    known = [entry.name for entry in DATA_DIR.iterdir() if entry.is_dir()] if DATA_DIR.is_dir() else []
    raise SettingError(f"--data {named}: no such folder, under data/ or by path"
                       f"{nearest(named, set(known) - {'cache', 'runs', 'smoke'})}")


def find_folder(name: str) -> Path:
    """Return the folder of the competition called `name`, as runs are; raises SettingError for none."""
    if owner := folder_of(name):
        return owner
    for entry in sorted(DATA_DIR.iterdir()) if DATA_DIR.is_dir() else []:
        if entry.is_dir() and file_name(entry.name) == name:
            return entry
    raise SettingError(f"the competition '{name}' has no folder under data/; give its folder with --data")


def find_solution(name: str) -> Path | None:
    """Return the solution beside the data of the competition called `name`; None where there is none to read."""
    try:
        return _solution(find_folder(name))
    except SettingError:  # the folder is gone
        return None


def is_course(name: str) -> bool:
    """Return whether a competition's data is the course's of 2022, as its name or the content of its folder tells.

    The years have the same training part and other test parts, which only the name tells apart.
    """
    if name == COURSE or name in OTHER_YEARS:
        return name == COURSE
    try:
        return is_course_data(find_folder(name))
    except SettingError:  # the folder is gone
        return False


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


def _check(directory: Path, speakers: list[str], utterances: list[Utterance]) -> None:
    train = [utterance for utterance in utterances if utterance.split == "train"]
    heard = {utterance.speaker for utterance in train}
    if not train:
        raise InputError(f"{directory}: no training utterances; data/README.md says where each kind keeps them")
    if len(heard) < 2:
        raise InputError(f"{directory}: only one speaker, '{train[0].speaker}'; identification needs two or more")
    check_names(directory, "speaker", speakers)
    check_names(directory, "utterance id", [utterance.utt_id for utterance in utterances])
