"""Pretraining without labels: all audio of a competition in, an encoder file that train takes out.

    python -m src pretrain --data so762 --experiment wav2vec2 --steps 3000 --set encoder.size=small
    python -m src train --data so762 --experiment wav2vec2 --set encoder.size=small --set encoder.weights=PATH

The encoder is the named experiment's (wav2vec2 or wav2vec2_decoder); what pretraining does with it is `Pretraining` and
TASK.start in plan.py, changed by --set. Training and test utterances are heard alike, no label is read. Writes
data/runs/<competition>/pretrain-<experiment>-<digest8>/ with log.csv, curves.png, encoder.pt and, last, result.json. A
finished run is never done again; a stopped one goes on and ends in the same bytes.
"""

import argparse
from typing import Any

from src import experiments
from src.apps.pretrain.plan import TASK, amend_row, make_plan
from src.competition.open import open_competition
from src.settings import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src pretrain`."""
    arguments.add_arguments(
        parser, data={"required": True, "help": "a competition with audio"},
        experiment={"default": "wav2vec2", "help": "whose encoder is pretrained (default: %(default)s)"},
        set={"help": "replace a setting, such as encoder.size=small or pretrain.negatives=100"})
    parser.add_argument("--steps", type=int, default=3000, help="steps (default: %(default)s)")


def main(options: argparse.Namespace) -> None:
    """Pretrain, record the run, and say how to train from it."""
    named = experiments.get(options.experiment)
    changes = {"train.steps": options.steps, **arguments.changes_of(options)}
    plan = make_plan(open_competition(options.data), named, changes)

    def work() -> dict[str, Any]:
        from src.apps.pretrain.run import run

        return run(plan)

    result = TASK.train(plan, named, options, work, amend=lambda row: amend_row(row, plan.pretrain))
    print(f"pretrain: {TASK.metric} {result['train']:.4f} at the end, {result['seconds']:.1f} s; curves: "
          f"{plan.directory / 'curves.png'}\ntrain from it with --set encoder.weights={plan.directory / 'encoder.pt'}")
