"""Stage 4: blended test logits and the competition in, a checked submission.csv out; local scores where known."""

import csv
import shutil
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.base.errors import InputError, RunError
from src.base.files import atomic_open
from src.base.git import is_tracked
from src.base.tables import header_of, read_csv
from src.base.text import shown, some
from src.base.workspace import submissions_dir
from src.competition.open import Competition
from src.competition.submission_form import COLUMNS
from src.runs.folder import Run
from src.runs.logits import read_logits
from src.store.table import Table

HALVES = ("Public", "Private")


class Score(NamedTuple):
    """Accuracy on the two halves of a solution file and on all of it."""

    public: float
    private: float
    total: float
    num_right: int
    num_total: int


def write_submission(competition: Competition, store: Table, blend: Run, out: Path, name: str,
                     may_replace: bool = False) -> Path:
    """Write `out` and a copy under submissions/<competition>/<name>.csv; return the copy's path.

    Columns, ids and their order are the sample submission's where the competition has one. store: which the blend was
    made from. may_replace: whether the copy may replace a file that git tracks; where it may not, and would change it,
    the copy is called <name>-<digest8>.csv. Raises RunError when the store's ids or speakers are not the competition's.
    """
    rows, logits = read_logits(blend.test_path)
    expected = [utterance.utt_id for utterance in competition.utterances if utterance.split == "test"]
    predicted = [store.utt_ids[row] for row in rows.tolist()]
    if sorted(predicted) != sorted(expected):
        raise RunError(f"{blend.directory}: its {len(predicted)} test utterances are not the {len(expected)} of "
                       f"'{competition.name}'; give the folder of '{blend.competition}' with --data, or, where its "
                       "data has changed, run the stream again")
    if list(store.speakers) != list(competition.speakers):
        changed = sorted(set(store.speakers) ^ set(competition.speakers))
        raise RunError(f"{blend.directory}: its {len(store.speakers)} speakers are not the competition's "
                       f"{len(competition.speakers)} ({some(changed) or 'in another order'}); the data has changed: "
                       "run the stream again")
    if logits.shape != (len(rows), len(competition.speakers)) or not np.isfinite(logits).all():
        raise RunError(f"{blend.directory}: logits of shape {logits.shape} or not finite for "
                       f"{len(competition.speakers)} classes; remove the folder and run again")
    category = dict(zip(predicted, logits.argmax(1).tolist()))
    answers = {utt_id: competition.speakers[category[utt_id]] for utt_id in expected}
    with atomic_open(out) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(competition.form.columns)
        writer.writerows(competition.form.filled(answers))
    kept = submissions_dir(competition.name) / f"{name}.csv"
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not may_replace and is_tracked(kept) and kept.exists() and kept.read_bytes() != out.read_bytes():
        kept = kept.with_name(f"{name}-{blend.result['digest'][:8]}.csv")
    if kept.resolve() != out.resolve():
        with atomic_open(kept, "wb") as file, open(out, "rb") as source:
            shutil.copyfileobj(source, file)
    return kept


def local_score(competition: Competition, submission: Path) -> Score | None:
    """Return the accuracy against the competition's solution file; None where no solution lies beside the data.

    A solution may cover a part of the test utterances; its columns are called Id and Category, or as the submission's.
    Raises InputError naming the line that is wrong.
    """
    if competition.solution_path is None:
        return None
    id_name, answer_name = competition.form.names
    answers = {row[id_name]: row[answer_name] for row in read_csv(submission, (id_name, answer_name)).values()}
    if not {id_name, answer_name} <= set(header_of(competition.solution_path)):
        id_name, answer_name = COLUMNS
    names = {unicodedata.normalize("NFC", name): name for name in competition.speakers}
    halves: dict[str, list[bool]] = {half: [] for half in HALVES}
    for line, row in read_csv(competition.solution_path, (id_name, answer_name), ("Usage",)).items():
        half = (row.get("Usage") or HALVES[0]).capitalize()
        if row[id_name] not in answers:
            raise InputError(f"{competition.solution_path}: line {line}: id {shown(row[id_name])} is not in "
                             f"{submission}, or stands twice")
        if half not in HALVES:
            raise InputError(f"{competition.solution_path}: line {line}: Usage {shown(half)}; write "
                             f"{' or '.join(HALVES)}")
        speaker = names.get(unicodedata.normalize("NFC", row[answer_name]))
        if speaker is None:
            raise InputError(f"{competition.solution_path}: line {line}: {answer_name} {shown(row[answer_name])} is no "
                             f"speaker of the competition, which has {some(sorted(names))}")
        halves[half].append(answers.pop(row[id_name]) == speaker)
    hits = [hit for half in halves.values() for hit in half]
    mean = [sum(half) / len(half) if half else float("nan") for half in (*halves.values(), hits)]
    return Score(*mean, sum(hits), len(hits))
