"""Kaggle's list of submissions joined with the ledger's rows, and rows for those that the ledger does not know."""

import re
from pathlib import Path

from src.base.errors import SettingError
from src.ledger import kaggle
from src.ledger.elsewhere import make_submission_row, submission_digest
from src.ledger.file import append, is_run, read, score
from src.ledger.kaggle import Submission
from src.ledger.sheet import Row

TITLES = {"filled": "filled", "added": "added", "unchanged": "already there", "pending": "no score yet",
          "failed": "refused by Kaggle", "kept": "not filled", "unknown": "not from a run in this ledger"}


def sync(competition: str, path: Path | None = None, add_to: str = "") -> int:
    """Fill the scores that Kaggle lists for the ledger's runs, print what became of each submission, and return the
    number of rows that were filled or added.

    competition: its name on kaggle.com. A submission belongs to the run whose id stands in its description, or to the
    row that was made of it. add_to: the competition, as rows call it, under which a scored submission that no row knows
    becomes one; "" to print it only.
    """
    rows = read(path)
    said: dict[str, list[str]] = {key: [] for key in TITLES}
    done = set()
    for submission in kaggle.submissions(competition):  # newest first: the newest score of a run counts
        run_id = _run_of(submission, competition, rows)
        if run_id in done:
            continue
        shown = run_id or f"{submission.file_name} of {submission.date[:16]} ('{submission.description}')"
        if run_id and submission.is_scored:
            done.add(run_id)
            key, shown = _fill(run_id, submission, rows, path)
        elif add_to and submission.is_scored:
            row = make_submission_row(submission, competition, add_to)
            append(row, path, once=True)
            key, shown = "added", _said(row)
        else:
            key = "failed" if run_id and submission.status == "error" else "pending" if run_id else "unknown"
        said[key].append(shown)
    for key, lines in said.items():
        if lines or key != "added":
            print(f"{TITLES[key]}: {len(lines)}", *lines, sep="\n  ")
    if said["unknown"] and not add_to:
        print("--add gives those that have a score a row of their own")
    return len(said["filled"]) + len(said["added"])


def _run_of(submission: Submission, competition: str, rows: list[Row]) -> str:
    """Return the run id of the row that a submission belongs to, or ""."""
    ids = sorted({row["run_id"] for row in rows if is_run(row)}, key=len, reverse=True)
    own = submission_digest(submission, competition)
    made_of_it = (row["run_id"] for row in rows if row["digest"] == own)
    return next((i for i in ids if names_run(submission.description, i)), "") or next(made_of_it, "")


def _fill(run_id: str, submission: Submission, rows: list[Row], path: Path | None) -> tuple[str, str]:
    """Fill the scores of a row, and return which of TITLES that is and what to print."""
    try:
        row = score(run_id, submission.public, submission.private, "kaggle", path)
    except SettingError as error:
        return "kept", str(error)
    return "unchanged" if row in rows else "filled", _said(row)


def _said(row: Row) -> str:
    return f"{row['run_id']}: public {row['public'] or '-'}, private {row['private'] or '-'}"


def names_run(description: str, run_id: str) -> bool:
    """Return whether a description holds this run id, and not merely one that contains it."""
    return re.search(rf"(?<![\w/.-]){re.escape(run_id)}(?![\w-])", description) is not None
