"""Kaggle's list of submissions joined with the ledger's rows by the run id in their description."""

import re
from pathlib import Path

from src.base.errors import SettingError
from src.ledger import kaggle
from src.ledger.file import is_run, read, score


def sync(competition: str, path: Path | None = None) -> int:
    """Fill the scores that Kaggle lists for our runs, say what was filled and what not, and return the number filled.

    competition: its name on kaggle.com. A submission belongs to the run whose id stands in its description.
    """
    rows = read(path)
    ids = sorted({row["run_id"] for row in rows if is_run(row)}, key=len, reverse=True)
    said: dict[str, list[str]] = {"filled": [], "unchanged": [], "pending": [], "failed": [], "kept": [], "unknown": []}
    done = set()
    for submission in kaggle.submissions(competition):  # newest first: the newest score of a run counts
        run_id = next((i for i in ids if names_run(submission.description, i)), "")
        shown = run_id or f"{submission.file_name} of {submission.date[:16]} ('{submission.description}')"
        if not run_id:
            said["unknown"].append(shown)
        elif run_id in done:
            continue
        elif submission.status == "error":
            said["failed"].append(shown)
        elif submission.status != "complete" or (submission.public is None and submission.private is None):
            said["pending"].append(shown)
        else:
            done.add(run_id)
            try:
                row = score(run_id, submission.public, submission.private, "kaggle", path)
            except SettingError as error:
                said["kept"].append(str(error))
                continue
            scores = f"{shown}: public {row['public'] or '-'}, private {row['private'] or '-'}"
            said["unchanged" if row in rows else "filled"].append(scores)
    titles = {"filled": "filled", "unchanged": "already there", "pending": "no score yet",
              "failed": "refused by Kaggle", "kept": "not filled", "unknown": "not from a run in this ledger"}
    for key, lines in said.items():
        print(f"{titles[key]}: {len(lines)}", *lines, sep="\n  ")
    return len(said["filled"])


def names_run(description: str, run_id: str) -> bool:
    """Return whether a description holds this run id, and not merely one that contains it."""
    return re.search(rf"(?<![\w/.-]){re.escape(run_id)}(?![\w-])", description) is not None
