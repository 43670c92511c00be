"""How much each attention head matters: a score measured on data, the heads to remove by it, and its picture.

`python -m src head_importance RUN` measures the heads of a finished run on the utterances that its first fold held
out, and writes the scores and the picture into the run's folder.
"""

import argparse
from pathlib import Path

from src.base.errors import SettingError
from src.base.files import write_json
from src.runs.folder import Run
from src.runs.head_scores import draw, head_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src head_importance`."""
    parser.add_argument("run", metavar="RUN", help="a finished run, or a unique prefix of its name")
    parser.add_argument("--utterances", type=int, default=200, metavar="N", help="held-out utterances, from the "
                        "shortest on (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE.png", type=Path, help="where to draw (default: in the run's folder)")


def main(options: argparse.Namespace) -> None:
    """Measure the heads of a run's first fold; print, write and draw their scores."""
    if options.utterances < 1:
        raise SettingError(f"--utterances {options.utterances}: must be at least 1")
    run = Run.open(options.run)
    from src.training.head_importance import measure_model  # imports torch

    experiment, importance = measure_model(run.fold(0).model_path, run.store_dir(), options.utterances)
    out = options.out or run.directory / "head_importance.png"
    draw(importance, out, title=f"{experiment.name}: importance of heads")
    write_json(out.with_suffix(".json"), {"importance": head_rows(importance)})
    for layer, row in enumerate(importance, start=1):
        print(f"layer {layer:2}: " + " ".join(f"{score:.2f}" for score in row))
    print(out)
