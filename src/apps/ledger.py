"""`python -m src ledger`: the ablation ledger's table, picture and scores."""

from pathlib import Path
from typing import TYPE_CHECKING

from src.base.errors import SettingError, nearest
from src.ledger.file import read, score

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the arguments of `python -m src ledger`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="table|plot|score|sync")
    table = actions.add_parser("table", help="print the ablation table, means and deviations over seeds")
    table.add_argument("--competition", default="", help="only this one")
    table.add_argument("--format", choices=("text", "markdown"), default="text")
    table.add_argument("--write", metavar="README.md", type=Path, help="put it between this file's markers")
    plot = actions.add_parser("plot", help="draw accuracy against time or parameters")
    plot.add_argument("--out", metavar="FILE.png", type=Path, default=Path("ablations.png"))
    plot.add_argument("--against", choices=("seconds", "params"), default="seconds")
    plot.add_argument("--competition", default="", help="only this one")
    fill = actions.add_parser("score", help="fill in the scores of runs, by hand or from a solution")
    fill.add_argument("runs", nargs="+", metavar="RUN", help="a run or blend, or a prefix that only one has")
    fill.add_argument("--public", type=float, help="what the leaderboard says of one run")
    fill.add_argument("--private", type=float)
    fill.add_argument("--kind", choices=("kaggle", "local"), default="kaggle", help="of --public and --private")
    fill.add_argument("--solution", metavar="FILE", type=Path,
                      help="Id, Category[, Usage]: score the runs' answers by it, as local scores")
    fill.add_argument("--replace", action="store_true", help="overwrite a score that differs")
    sync_parser = actions.add_parser("sync", help="fill in the scores of all submissions, by the kaggle tool")
    sync_parser.add_argument("kaggle_competition", help="its name on kaggle.com")


def main(args: "Namespace") -> None:
    """Run one action of `python -m src ledger`."""
    if args.action == "score":
        _score(args)
    elif args.action == "sync":
        from src.ledger.sync import sync

        sync(args.kaggle_competition)
    else:
        every = read()
        rows = [row for row in every if args.competition in ("", row["competition"])]
        if every and not rows:
            raise SettingError(f"ledger: no row of '{args.competition}'"
                               f"{nearest(args.competition, {row['competition'] for row in every})}")
        if args.action == "plot":
            from src.ledger.plot import plot

            plot(args.out, rows, args.against)
            print(args.out)
        elif args.write:
            from src.ledger.table import write_into

            write_into(args.write, rows)
            print(args.write)
        else:
            from src.ledger.table import table

            print(table(rows, args.format), end="")


def _score(args: "Namespace") -> None:
    """Fill the scores of runs; raises SettingError for what does not go together."""
    if args.solution and not (args.public is args.private is None):
        raise SettingError("ledger score: give --solution, or --public and --private")
    if args.solution:
        from src.ledger.score import by_solution

        given = by_solution(args.runs, args.solution)
    elif len(args.runs) > 1:
        raise SettingError("ledger score: --public and --private are one run's; several runs take --solution FILE")
    else:
        given = {args.runs[0]: {"public": args.public, "private": args.private, "kind": args.kind}}
    for run_id, scores in given.items():
        row = score(run_id, **scores, replace=args.replace)
        print(f"{row['run_id']}: public {row['public'] or '-'}, private {row['private'] or '-'} ({row['score_kind']})")
