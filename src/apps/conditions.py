"""`python -m src conditions RUN`: a run's accuracy on held-out utterances as other sessions would give them."""

import argparse
import contextlib
from collections.abc import Mapping

from src.base.errors import SettingError
from src.ledger import file as ledger
from src.runs.folder import Run
from src.settings import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src conditions`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a finished run, or a unique prefix of its name")
    arguments.add_arguments(parser, data={
        "default": None, "help": "their competition, where it does not lie under data/"})


def main(options: argparse.Namespace) -> None:
    """Evaluate each run that was not yet, and print a table: one row per run, one column per condition."""
    from src.shift.conditions import MIXTURE, evaluate, expect, share_right  # imports torch

    runs = [Run.find(name) for name in options.runs]
    results = [evaluate(run, options.data) for run in runs]
    shares = {}
    for run, result in zip(runs, results):
        by_condition = {condition: share_right(result[condition]) for condition in MIXTURE}
        note = ", ".join(f"{condition} {share:.4f}" for condition, share in by_condition.items())
        with contextlib.suppress(SettingError):  # a run that has no row: a search's or another ledger's
            ledger.describe_shift(run.run_id, result["shifted"], note)
        shares[run.run_id] = {**by_condition, "shifted": result["shifted"]}
    print(table(shares))
    for run in runs:
        print(f"{run.run_id}: {expect(run, options.data)}")


def table(shares: Mapping[str, Mapping[str, float]]) -> str:
    """Return accuracies {run: {column: share}} as aligned text."""
    lines = [("run", *next(iter(shares.values())))]
    lines += [(run_id, *(f"{share:.4f}" for share in row.values())) for run_id, row in shares.items()]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(f"{line[0]:<{widths[0]}}  " + "  ".join(f"{cell:>{width}}" for cell, width in
                                                             zip(line[1:], widths[1:])) for line in lines)
