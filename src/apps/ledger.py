"""`python -m src ledger`: the ablation ledger's table, picture and scores."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base.errors import SettingError, nearest
from src.ledger.file import read, score
from src.settings import arguments

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

NUMBERS = {"public": "the leaderboard's public score", "private": "the private score",
           "valid": "accuracy on held-out utterances", "minutes": "how long the training took"}


def add_arguments(parser: "ArgumentParser") -> None:
    """Add the arguments of `python -m src ledger`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="table|plot|add|score|sync")
    table = actions.add_parser("table", help="print the ablation table, means and deviations over seeds")
    table.add_argument("--competition", default="", help="only this one")
    table.add_argument("--columns", default="", metavar="A,B,…", help="these: the table's or the ledger's own")
    table.add_argument("--sort", default="", metavar="COLUMN", help="the best first (default: as they were run)")
    table.add_argument("--top", type=int, metavar="N", help="so many of each competition, by --sort, else by valid")
    table.add_argument("--technique", default="", metavar="NAME",
                       help="what changed it and what they changed: pooling, augment, optim.lr, …")
    table.add_argument("--format", choices=("text", "md", "csv"), default="text",
                       help="text fits the terminal; csv has every column as a number (default: %(default)s)")
    table.add_argument("--write", metavar="README.md", type=Path, help="put it as Markdown between this file's markers")
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
    add = actions.add_parser("add", help="add the row of a run done elsewhere: a notebook's, a colleague's")
    add.add_argument("--competition", metavar="NAME", help="as the other rows of its data call it")
    arguments.add_arguments(
        add, experiment={"default": None, "help": "an experiment's name or .json file that comes nearest"},
        set={"help": "what was different; may be repeated"})
    for option, about in NUMBERS.items():
        add.add_argument(f"--{option}", metavar="NUMBER", help=about)
    add.add_argument("--kind", choices=("kaggle", "local"), default="kaggle", help="of --public and --private")
    add.add_argument("--note", default="", help="where it was done, by whom")
    add.add_argument("--from", dest="source", metavar="FILE", type=Path,
                     help="instead of all that: bring in the rows of another ledger file that are not there yet")
    sync_parser = actions.add_parser("sync", help="fill in the scores of all submissions, by the kaggle tool")
    sync_parser.add_argument("kaggle_competition", help="its name on kaggle.com")
    sync_parser.add_argument("--add", action="store_true", help="give scored submissions that no row knows a row")
    sync_parser.add_argument("--competition", default="", metavar="NAME",
                             help="what these rows call the competition (default: as Kaggle does)")


def main(args: "Namespace") -> None:
    """Run one action of `python -m src ledger`."""
    if args.action == "score":
        _score(args)
    elif args.action == "sync":
        from src.ledger.sync import sync

        sync(args.kaggle_competition, add_to=(args.competition or args.kaggle_competition) if args.add else "")
    elif args.action == "add":
        _add(args)
    else:
        rows = _rows_of(args.competition)
        if args.action == "plot":
            from src.ledger.plot import plot

            plot(args.out, rows, args.against)
            print(args.out)
        elif args.write:
            from src.ledger.table import write_into

            write_into(args.write, rows)
            print(args.write)
        else:
            print(_table(args, rows), end="")


def _rows_of(competition: str) -> list[dict[str, str]]:
    """Return the rows of a competition's data, others' included, or all rows for ""; raises SettingError for none."""
    from src.ledger.groups import data_names

    rows = read()
    if not competition or not rows:
        return rows
    data = data_names(rows)
    if competition not in data:
        raise SettingError(f"ledger: no row of '{competition}'{nearest(competition, data)}")
    return [row for row in rows if data[row["competition"]] == data[competition]]


def _table(args: "Namespace", rows: list[dict[str, str]]) -> str:
    """Return the table that is asked for, as wide as the terminal."""
    from src.ledger.table import View, table

    if args.top is not None and args.top < 1:
        raise SettingError(f"ledger table --top {args.top}: must be at least 1")
    view = View(tuple(filter(None, args.columns.split(","))), args.sort, args.top, args.technique,
                width=shutil.get_terminal_size().columns)
    return table(rows, args.format, view if args.format == "text" else replace(view, width=None))


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


def _add(args: "Namespace") -> None:
    """Add the row of a run done elsewhere, or the rows of another ledger file."""
    from src.ledger.file import append, bring_in

    if args.source:
        num_added, num_rows = bring_in(args.source)
        print(f"{args.source}: {num_added} of {num_rows} rows added"
              + f", {num_rows - num_added} there already" * (num_added < num_rows))
        return
    row = _elsewhere(args)
    if append(row, once=True):
        print(f"{row['run_id']}: added")
    else:
        print(f"{row['run_id']}: there already, so nothing was added; another --note makes it another run")


def _elsewhere(args: "Namespace") -> dict[str, Any]:
    """Return the row that `ledger add` describes; raises SettingError for anything that is missing or wrong."""
    from src import experiments
    from src.ledger.elsewhere import make_elsewhere_row
    from src.settings.arguments import changes_of, resolve
    from src.settings.parts import complete_experiment

    if not (args.competition and args.experiment):
        raise SettingError("ledger add: give --competition and --experiment, or --from FILE")
    numbers = {option: _number(option, getattr(args, option)) for option in NUMBERS}
    if all(numbers[option] is None for option in ("public", "private", "valid")):
        raise SettingError("ledger add: give what the run has reached: --public, --private or --valid")
    named, changes = experiments.get(args.experiment), changes_of(args)
    experiment = complete_experiment(resolve(args, named))
    parent = named if changes else experiments.get(named.parent) if named.parent in experiments.names() else None
    minutes = numbers.pop("minutes")
    scores = {**numbers, "seconds": None if minutes is None else 60 * minutes}
    if not numbers["public"] is numbers["private"] is None:
        scores["score_kind"] = args.kind
    return make_elsewhere_row(experiment, parent and complete_experiment(parent), changes, note=args.note,
                              competition=args.competition, scores=scores)


def _number(option: str, text: str | None) -> float | None:
    """Return the number of an option; raises SettingError for what is none or out of bounds."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    limit = math.inf if option == "minutes" else 1
    if not 0 <= value <= limit or value == math.inf:
        raise SettingError(f"ledger add: --{option} {text}: " + (
            "minutes are a number from 0 on" if option == "minutes" else "an accuracy lies between 0 and 1"))
    return value
