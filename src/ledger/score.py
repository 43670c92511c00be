"""Scores against a solution, which this file alone reads, once the predictions are made.

In: the answers of a run, a blend or a submission, and a solution (Id, Category[, Usage]). Out: the accuracy on each of
its halves, which the ledger keeps as a local score.
"""

import math
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from src.base.errors import InputError, SettingError, SpeakerIDError
from src.base.tables import header_of, read_csv
from src.base.text import shown, some
from src.competition.open import NO_SCORE, Competition, find_folder, is_hidden, open_competition
from src.competition.submission_form import COLUMNS, Form
from src.runs.folder import Run
from src.runs.predictions import read_answers

HALVES = ("Public", "Private")


class Score(NamedTuple):
    """Accuracy on the two halves of a solution file and on all of it; NaN for a half that it does not have."""

    public: float
    private: float
    total: float
    num_right: int
    num_total: int

    @property
    def halves(self) -> dict[str, float]:
        """The ledger's columns `public` and `private`, each where the solution has that half."""
        both = {"public": self.public, "private": self.private}
        return {column: value for column, value in both.items() if math.isfinite(value)}

    @property
    def text(self) -> str:
        """The score as the end of a run prints it."""
        both = f"; public half {self.public:.4f}, private half {self.private:.4f}" if len(self.halves) == 2 else ""
        return f"{self.total:.4f} ({self.num_right} of {self.num_total}{both})"


def score_answers(answers: Mapping[str, str], solution_path: Path, speakers: Iterable[str], source: Path,
                  columns: tuple[str, str] = COLUMNS) -> Score:
    """Return the accuracy of answers {Id: speaker} against a solution, which may cover a part of them.

    speakers: the competition's. columns: what the submission calls its Id and its answer, as the solution may too.
    source: where the answers come from, for messages. Raises InputError naming the line of the solution that is wrong.
    """
    answers = dict(answers)
    id_name, answer_name = columns if set(columns) <= set(header_of(solution_path)) else COLUMNS
    names = {unicodedata.normalize("NFC", name): name for name in speakers}
    hits: dict[str, list[bool]] = {half: [] for half in HALVES}
    for line, row in read_csv(solution_path, (id_name, answer_name), ("Usage",)).items():
        half = (row.get("Usage") or HALVES[0]).capitalize()
        if row[id_name] not in answers:
            raise InputError(f"{solution_path}: line {line}: id {shown(row[id_name])} is not in {source}, or stands "
                             "twice; give the solution of this competition")
        if half not in HALVES:
            raise InputError(f"{solution_path}: line {line}: Usage {shown(half)}; write {' or '.join(HALVES)}")
        speaker = names.get(unicodedata.normalize("NFC", row[answer_name]))
        if speaker is None:
            raise InputError(f"{solution_path}: line {line}: {answer_name} {shown(row[answer_name])} is no speaker of "
                             f"the competition, which has {some(sorted(names))}")
        hits[half].append(answers.pop(row[id_name]) == speaker)
    every = [hit for half in hits.values() for hit in half]
    means = [sum(half) / len(half) if half else math.nan for half in (*hits.values(), every)]
    return Score(*means, sum(every), len(every))


def local_score(competition: Competition, submission: Path) -> Score | None:
    """Return the score of a submission file; None where no solution lies beside the competition's data."""
    if competition.solution_path is None:
        return None
    columns = id_name, answer_name = competition.form.names
    answers = {row[id_name]: row[answer_name] for row in read_csv(submission, columns).values()}
    return score_answers(answers, competition.solution_path, competition.speakers, submission, columns)


def score_run(run: Run, solution_path: Path | None, form: Form | None = None) -> Score | None:
    """Return the score of a finished run or blend, as a submission of it would have it.

    form: the competition's, by which a solution may call its utterances. None without a solution, and where there was
    no test part to predict. Raises InputError and RunError as
    `score_answers` and `read_answers` do.
    """
    form = form or Form()
    answers = form.by_id(read_answers(run)) if solution_path else {}
    return score_answers(answers, solution_path, run.speakers(), run.directory, form.names) if answers else None


def by_solution(names: Iterable[str], solution_path: Path) -> dict[str, dict[str, Any]]:
    """Return {run id: its scores by a solution, as `ledger.file.score` takes them} of runs in the workspace.

    Raises SettingError under SPEAKER_ID_NO_SCORE=1 and where a run has predicted no test part.
    """
    if is_hidden():
        raise SettingError(f"ledger score: {NO_SCORE} is set, so no solution is read; unset it first")
    found = {}
    for run in map(Run.find, names):
        score = score_run(run, solution_path)
        if score is None:
            raise SettingError(f"ledger score: {run.run_id} has predicted no test part, so there is nothing to score")
        found[run.run_id] = {**score.halves, "kind": "local"}
    return found


def score_cells(run: Run) -> dict[str, Any]:
    """Return the cells of a run's scores where a solution lies beside its competition's data, and {} elsewhere.

    Whatever keeps it from being scored is printed in a line, for the row is written all the same.
    """
    try:
        competition = open_competition(find_folder(run.competition))
    except SpeakerIDError:  # the folder is gone, and with it the solution
        return {}
    try:
        score = score_run(run, competition.solution_path, competition.form)
    except SpeakerIDError as error:
        print(f"not scored: {error}")
        return {}
    return {**score.halves, "score_kind": "local"} if score else {}
