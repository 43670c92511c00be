"""A run as a page: what it is, how it learnt, what it gets wrong, how sure it is; and its neighbours in the ledger.

    python -m src report RUN [--out DIR] [--tensorboard DIR]

In: the files of a run (experiment.json, result.json, and each fold's log.csv, valid.npz and model.pt), its store, the
ledger, and conditions.json where `conditions` has left one. Out: index.html, which needs nothing else, and the pictures
as PNGs beside it. What a run does not have is said in its place: a run with folds=all has no held-out utterances, an
unfinished one only the folds that are done, one whose store is gone no labels.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src report`."""
    parser.add_argument("run", metavar="RUN", help="a run, or a unique prefix of its name")
    parser.add_argument("--out", metavar="DIR", type=Path,
                        help="where to write (default: the folder `report` in the run's)")
    parser.add_argument("--tensorboard", metavar="DIR", type=Path,
                        help="also write the curves as TensorBoard's event files under DIR")


def main(options: argparse.Namespace) -> None:
    """Write the report of a run."""
    from src.apps.report.run import run

    run(options)
