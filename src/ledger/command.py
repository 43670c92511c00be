"""`python -m src ledger`: the ablation ledger's table, picture and scores."""

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path

from src.base.errors import SettingError, nearest
from src.ledger import kaggle
from src.ledger.file import is_run, read, score
from src.ledger.plot import plot
from src.ledger.table import table, write_into


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


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `python -m src ledger`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="table|plot|score|sync")
    show = actions.add_parser("table", help="print the ablation table, means and deviations over seeds")
    show.add_argument("--competition", default="", help="only this one")
    show.add_argument("--format", choices=("text", "markdown"), default="text")
    show.add_argument("--write", metavar="README.md", type=Path, help="put it between this file's markers")
    draw = actions.add_parser("plot", help="draw accuracy against time or parameters")
    draw.add_argument("--out", metavar="FILE.png", type=Path, default=Path("ablations.png"))
    draw.add_argument("--against", choices=("seconds", "params"), default="seconds")
    draw.add_argument("--competition", default="", help="only this one")
    fill = actions.add_parser("score", help="fill in the leaderboard's scores of a run")
    fill.add_argument("run_id", help="<competition>/<experiment>-<digest8>, or a prefix that only one run has")
    fill.add_argument("--public", type=float)
    fill.add_argument("--private", type=float)
    fill.add_argument("--kind", choices=("kaggle", "local"), default="kaggle")
    fill.add_argument("--replace", action="store_true", help="overwrite a score that differs")
    sync_parser = actions.add_parser("sync", help="fill in the scores of all submissions, by the kaggle tool")
    sync_parser.add_argument("kaggle_competition", help="its name on kaggle.com")


def main(args: Namespace) -> None:
    """Run one action of `python -m src ledger`."""
    if args.action == "score":
        row = score(args.run_id, args.public, args.private, args.kind, replace=args.replace)
        print(f"{row['run_id']}: public {row['public'] or '-'}, private {row['private'] or '-'} ({row['score_kind']})")
    elif args.action == "sync":
        sync(args.kaggle_competition)
    else:
        every = read()
        rows = [row for row in every if args.competition in ("", row["competition"])]
        if every and not rows:
            raise SettingError(f"ledger: no row of '{args.competition}'"
                               f"{nearest(args.competition, {row['competition'] for row in every})}")
        if args.action == "plot":
            plot(args.out, rows, args.against)
            print(args.out)
        elif args.write:
            write_into(args.write, rows)
            print(args.write)
        else:
            print(table(rows, args.format), end="")
