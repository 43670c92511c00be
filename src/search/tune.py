"""Search an experiment's settings with Optuna: trials in, the best settings, pictures and ledger rows out.

Calls train for every trial, in as many processes as asked for, over a storage that any number of such commands may
share. `tune promote` (src.search.promote) then proves the best on fresh seeds and writes it as an experiment file.
"""

import argparse
import os
from pathlib import Path

from src.settings import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src tune`."""
    parser.add_argument("action", nargs="?", choices=("search", "promote"), default="search",
                        help="search (default), or promote: rerun the best on fresh seeds and write its file")
    arguments.add_arguments(
        parser, "data", set={"help": "change the start, such as optim.lr=3e-4; may be repeated"},
        experiment={"help": "where the search starts: a name or a promoted .json file (default: %(default)s)"})
    parser.add_argument("--storage", metavar="URL", help="sqlite:///FILE, postgresql://USER@HOST/NAME or journal:FILE; "
                        "shared by any number of machines (default: an SQLite file under data/studies)")
    parser.add_argument("--steps", type=_positive, metavar="N",
                        help="training steps of a trial, of a rerun for promote (default: the experiment's own)")
    parser.add_argument("--folds", type=_positive, metavar="K",
                        help="folds of a trial (default: 1), of a rerun for promote (default: the experiment's own)")
    search = parser.add_argument_group("search")
    search.add_argument("--trials", type=_positive, default=40, metavar="N",
                        help="finished trials of the study in all, those from before among them (default: %(default)s)")
    search.add_argument("--workers", type=_positive, default=1, metavar="K", help="processes (default: %(default)s)")
    search.add_argument("--timeout", type=float, metavar="S", help="begin no trial after S seconds")
    search.add_argument("--heartbeat", type=_positive, default=60, metavar="S",
                        help="seconds between a worker's signs of life in a database; after ten missed ones its trial "
                        "is run again (default: %(default)s)")
    search.add_argument("--seed", type=int, default=0, help="seed of what the search draws (default: %(default)s)")
    search.add_argument("--lost", action="append", default=[], metavar="HOST",
                        help="a machine that is gone for good: its trials under way are run again")
    promote = parser.add_argument_group("promote")
    promote.add_argument("--seeds", type=_positive, default=3, help="fresh seeds of each (default: %(default)s)")
    promote.add_argument("--out", metavar="FILE.json", type=Path, help="where to write the experiment")
    promote.add_argument("--study", default="", metavar="NAME", help="which one, where the storage holds several")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def main(options: argparse.Namespace) -> None:
    """Run `tune search` or `tune promote`."""
    if options.action == "promote":
        from src.search.promote import promote

        promote(options)
        return
    os.environ.setdefault("TQDM_DISABLE", "1")  # a line per trial, not a bar per fold; tqdm reads it on import
    from src.search.run import search

    search(options)
