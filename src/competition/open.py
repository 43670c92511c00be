"""What lies in a competition's folder: a name under data/ or any path in, its checked list of utterances out.

The first stop of the stream; every stage that needs ids, speakers or their order asks here. Three kinds are recognised
from what lies there: "course" (metadata.json, mapping.json, testdata.json and one .pt of log-mels an utterance),
"frames" (frames.npy and frames.csv, as in data/japanese_vowels) and "audio" (train/<speaker>/*, test/*). Nothing here
opens a feature or audio file, and nothing heavy is imported, so that 64,666 utterances list in well under a second.
"""

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from src.base.errors import InputError, SettingError, nearest
from src.base.workspace import DATA_DIR
from src.competition.audio_folder import list_audio
from src.competition.course import list_course
from src.competition.frames import list_frames
from src.competition.names import file_name, folder_of, name_of
from src.competition.nearby import inner_folder, what_lies_there
from src.competition.submission_form import Form, matched, read_form
from src.competition.utterances import Folders, Utterance, check_names

NO_SCORE = "SPEAKER_ID_NO_SCORE"  # set to 1, no solution is read and no score printed
LOOKED_FOR = {
    "course": ("metadata.json", "mapping.json"),
    "frames": ("frames.npy", "frames.csv"),
    "audio": ("train",),
}
TABLES = ("metadata.json", "mapping.json", "testdata.json", "frames.npy", "frames.csv", "utterances.csv",
          "sample_submission.csv", "solution.csv")
SAMPLES = ("samplesubmission", "submissionsample", "submissionformat")  # how else it is called, as letters alone


@dataclass(frozen=True)
class Competition:
    """A competition: training utterances first, then the test utterances in the order of the submission.

    name: see competition/names.py. home: the folder that was named and owns the name: `directory`, or one that holds it
    alone. kind: "course", "frames" or "audio". feature_kind: what the input holds,
    "logmel", "cepstra" or "waveform"; feature_dim: its number of values a frame, None for audio. speakers: the class
    names by index. solution_path: solution.csv (Id, Category[, Usage]) where one lies there; for scoring only. form:
    how a submission looks. notices: lines for the person who uses it: what was left out, and what was understood.
    """

    name: str
    home: Path
    directory: Path
    kind: str
    feature_kind: str
    feature_dim: int | None
    speakers: tuple[str, ...]
    utterances: tuple[Utterance, ...]
    has_test: bool
    solution_path: Path | None
    form: Form = field(default_factory=Form)
    notices: tuple[str, ...] = ()

    @property
    def test_ids(self) -> list[str]:
        """Return the test Ids in the order of the submission."""
        return [utterance.utt_id for utterance in self.utterances if utterance.split == "test"]


def open_competition(data: str | Path) -> Competition:
    """Recognise and list the competition `data`: a name under data/, or the path of any folder.

    Raises SettingError when there is no such folder, and InputError, naming file, key and remedy, when what lies there
    is none of the three kinds, is malformed, names a missing file, or names a file outside the folder.
    """
    named = _find(data)
    directory = _recognised(named)
    folders = Folders(directory)
    folders.check_tables(TABLES)
    kind, form = recognise(directory), Form()
    if kind == "audio":
        sample_path = directory / "sample_submission.csv"
        form = read_form(sample_path) if sample_path.exists() else form
        feature_kind, feature_dim, speakers, utterances = list_audio(directory, folders, form)
    else:
        read = {"course": list_course, "frames": list_frames}[kind]
        feature_kind, feature_dim, speakers, utterances = read(directory, folders)
    _check(directory, speakers, utterances)
    inner = [f"{named}: the competition lies in {directory}, which is read"] if directory != named else []
    competition = Competition(
        name=name_of(named),
        home=named,
        directory=directory,
        kind=kind,
        feature_kind=feature_kind,
        feature_dim=feature_dim,
        speakers=tuple(speakers),
        utterances=tuple(utterances),
        has_test=utterances[-1].split == "test",
        solution_path=_solution(directory),
    )
    form = _submission_form(competition, form, folders)
    return replace(competition, form=form, notices=(*inner, *folders.notices, *folders.left_out()))


def _submission_form(competition: Competition, form: Form, folders: Folders) -> Form:
    """Return the form of a submission; where the sample is of other utterances than the test part, a notice says so.

    Audio follows its sample_submission.csv strictly. The other kinds order their test part by their own tables, and a
    sample by another name may be of something else: they decide the form alone, and only where every id is known.
    """
    if not competition.has_test:
        return Form()
    path = competition.directory / "sample_submission.csv"
    if not path.exists():
        names = [name for name in os.listdir(competition.directory) if name.lower().endswith(".csv")]
        samples = sorted(name for name in names if re.sub(r"[^a-z]", "", name.lower()[:-4]) in SAMPLES)
        if not samples:
            return Form()
        path = path.with_name(samples[0])
        folders.check_tables([path.name])
    try:
        form = form if form.rows else read_form(path)
        return matched(form, competition.test_ids, (), path)
    except InputError as error:
        if competition.kind == "audio" and path.name == "sample_submission.csv":
            raise
        folders.notices.append(f"{error}. The submission is written as {','.join(Form().columns)} in the test part's "
                               "own order")
        return Form()


def _recognised(directory: Path) -> Path:
    """Return the folder of the competition that `directory` is or, alone, holds; raises InputError for neither."""
    if recognise(directory):
        return directory
    if inner := inner_folder(directory, recognise):
        return inner
    found = {name: (directory / name).exists() for needed in LOOKED_FOR.values() for name in needed}
    seen = ", ".join(f"{name} ({'found' if there else 'missing'})" for name, there in found.items())
    raise InputError(f"{directory}: no competition is recognised here; {what_lies_there(directory, recognise)}looked "
                     f"for {seen} and utterances.csv (missing); data/README.md says what each kind consists of")


def _solution(directory: Path) -> Path | None:
    """Return the solution that lies in a folder, unless SPEAKER_ID_NO_SCORE=1 hides it while choices are made."""
    path = directory / "solution.csv"
    is_hidden = os.environ.get(NO_SCORE, "") not in ("", "0")
    return path if path.is_file() and not is_hidden else None


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


def recognise(directory: Path) -> str:
    """Return the kind of the competition in `directory`, "" where none is recognised."""
    for kind, needed in LOOKED_FOR.items():
        if all((directory / name).exists() for name in needed):
            return kind
    if (directory / "utterances.csv").exists() or Folders(directory).part("train") != "train":
        return "audio"
    return ""


def _check(directory: Path, speakers: list[str], utterances: list[Utterance]) -> None:
    train = [utterance for utterance in utterances if utterance.split == "train"]
    heard = {utterance.speaker for utterance in train}
    if not train:
        raise InputError(f"{directory}: no training utterances; data/README.md says where each kind keeps them")
    if len(heard) < 2:
        raise InputError(f"{directory}: only one speaker, '{train[0].speaker}'; identification needs two or more")
    check_names(directory, "speaker", speakers)
    check_names(directory, "utterance id", [utterance.utt_id for utterance in utterances])
