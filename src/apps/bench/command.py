"""How fast each stage is on this machine: throughput and peak memory, repeated, as a table and as JSON.

    python -m src bench --data so762 --experiments seed88 --stages train infer --json bench.json
"""

import argparse
import math
from pathlib import Path

from src.apps.bench.machine import PRECISIONS
from src.base.errors import SettingError
from src.settings import arguments

STAGES = ("preprocess", "crops", "train", "infer", "padding")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src bench`."""
    arguments.add_arguments(parser, "data", set={
        "help": "a setting of every experiment, such as train.batch_size=256; may be repeated"})
    parser.add_argument("--experiments", nargs="+", default=["course", "seed88", "default"], metavar="NAME",
                        help="whose training and inference is measured (default: course seed88 default)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES[:4], metavar="STAGE",
                        help=f"what is measured, of {' '.join(STAGES)} (default: all but padding, which trains on "
                        "whole utterances)")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=(), metavar="PRECISION",
                        help="number types of training and inference (default: float32 and bfloat16, which is left out "
                        "where the processor does not multiply it)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a measurement (default: %(default)s)")
    parser.add_argument("--scale", action="store_true",
                        help="preprocess 1/16, 1/8, 1/4 and 1/2 of the utterances too: does its cost grow in a line?")
    parser.add_argument("--peer", metavar="SCRIPT",
                        help="run another program in turn with ours, as `python SCRIPT FOLDER --model course|seed88 "
                        "--steps N`; its last line is JSON with crops_per_s and predict_utterances_per_s")
    parser.add_argument("--peer-steps", nargs="+", default=[], metavar="MODEL=N",
                        help="training steps of the peer's runs (default: some twenty seconds of them)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all that was measured to this file")


def main(options: argparse.Namespace) -> None:
    """Measure what was asked for, print it as a table, and write it as JSON."""
    if options.repeats < 1 or not 0 < options.seconds < math.inf:
        raise SettingError("bench: --repeats must be at least 1 and --seconds a number above 0")
    from src.apps.bench.run import run

    run(options)
