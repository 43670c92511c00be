"""`python -m src conditions RUN`: a run's accuracy on held-out utterances as other sessions would give them."""

import argparse
import contextlib
from collections.abc import Sequence
from typing import Any

from src.base.errors import SettingError
from src.ledger import file as ledger
from src.runs.folder import Run
from src.shift.conditions import MIXTURE, evaluate, share_right


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src conditions`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a finished run, or a unique prefix of its name")
    parser.add_argument("--data", metavar="NAME_OR_DIR", help="their competition, where it does not lie under data/")


def main(options: argparse.Namespace) -> None:
    """Evaluate each run that was not yet, and print a table: a row a run, a column a condition."""
    runs = [Run.find(name) for name in options.runs]
    results = [evaluate(run, options.data) for run in runs]
    for run, result in zip(runs, results):
        said = ", ".join(f"{condition} {share_right(result[condition]):.4f}" for condition in MIXTURE)
        with contextlib.suppress(SettingError):  # a run that has no row: a search's or another ledger's
            ledger.describe_shift(run.run_id, result["shifted"], said)
    print(table([run.run_id for run in runs], results))


def table(run_ids: Sequence[str], results: Sequence[dict[str, Any]]) -> str:
    """Return the accuracies of runs, results as `evaluate` returns them, as aligned text."""
    lines = [("run", *MIXTURE, "shifted")]
    for run_id, result in zip(run_ids, results):
        shares = [*(share_right(result[condition]) for condition in MIXTURE), result["shifted"]]
        lines.append((run_id, *(f"{share:.4f}" for share in shares)))
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(f"{line[0]:<{widths[0]}}  " + "  ".join(f"{cell:>{width}}" for cell, width in
                                                             zip(line[1:], widths[1:])) for line in lines)
