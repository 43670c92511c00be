"""Stage 4: blended test logits and the competition in, a checked submission.csv out; local scores where known."""

import csv
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.competition import Competition
from src.errors import InputError, RunError
from src.files import atomic_open
from src.logits import read_logits
from src.workspace import submissions_dir

HEADER = ["Id", "Category"]


class Score(NamedTuple):
    """Accuracy on the two halves of a solution file and on all of it."""

    public: float
    private: float
    total: float
    num_right: int
    num_total: int


def write_submission(competition: Competition, utt_ids: list[str], blend_dir: Path, out: Path, name: str) -> Path:
    """Write `out` and a copy under submissions/<competition>/<name>.csv; return the copy's path.

    utt_ids are the store's, by row. Raises RunError when ids, order or classes do not match the competition.
    """
    rows, logits = read_logits(blend_dir / "test.npz")
    expected = [utterance.utt_id for utterance in competition.utterances if utterance.split == "test"]
    predicted = [utt_ids[row] for row in rows.tolist()]
    if sorted(predicted) != sorted(expected):
        raise RunError(f"{blend_dir}: its {len(predicted)} test utterances are not the competition's {len(expected)}; "
                       "the data has changed: run the stream again")
    if logits.shape != (len(rows), len(competition.speakers)) or not np.isfinite(logits).all():
        raise RunError(f"{blend_dir}: logits of shape {logits.shape} or not finite for {len(competition.speakers)} "
                       "classes; remove the folder and run again")
    category = dict(zip(predicted, logits.argmax(1).tolist()))
    with atomic_open(out) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows((utt_id, competition.speakers[category[utt_id]]) for utt_id in expected)
    kept = submissions_dir(competition.name) / f"{name}.csv"
    kept.parent.mkdir(parents=True, exist_ok=True)
    if kept.resolve() != out.resolve():
        with atomic_open(kept, "wb") as file, open(out, "rb") as source:
            shutil.copyfileobj(source, file)
    return kept


def local_score(competition: Competition, submission: Path) -> Score | None:
    """Return the accuracy against the competition's solution file; None where no solution lies beside the data."""
    if competition.solution_path is None:
        return None
    answers = dict(_read_pairs(submission))
    halves: dict[str, list[bool]] = {"public": [], "private": []}
    with open(competition.solution_path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row.get("Id") not in answers:
                raise InputError(f"{competition.solution_path}: id {row.get('Id')!r} is not in {submission}")
            halves[(row.get("Usage") or "Public").lower()].append(answers[row["Id"]] == row["Category"])
    hits = halves["public"] + halves["private"]
    mean = [sum(half) / len(half) if half else float("nan") for half in (halves["public"], halves["private"], hits)]
    return Score(*mean, sum(hits), len(hits))


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return [(row["Id"], row["Category"]) for row in csv.DictReader(file)]
