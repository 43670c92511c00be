"""Speech to characters by CTC: an experiment's encoder and transcripts in, a model and its token error rate out.

    python -m src ctc --data so762 --experiment wav2vec2 --steps 6000 --set encoder.size=small

Beside the stream: its metric is the token error rate, which ensemble and submit do not take. plan.py plans a run and
run.py does it, in data/runs/<competition>/ctc-<experiment>-<digest8>/.
"""

import argparse
from pathlib import Path
from typing import Any

from src import experiments
from src.apps.ctc.plan import TASK, make_plan
from src.competition.open import open_competition
from src.settings import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src ctc`."""
    arguments.add_arguments(
        parser, data={"required": True, "help": "a competition with audio"},
        experiment={"default": "wav2vec2", "help": "whose encoder is trained (default: %(default)s)"},
        set={"help": "replace a setting, such as encoder.size=small or encoder.weights=PATH"})
    parser.add_argument("--steps", type=int, default=6000, help="steps (default: %(default)s)")
    parser.add_argument("--transcripts", type=Path, metavar="CSV",
                        help="path and text of training utterances (default: the competition's own)")


def main(options: argparse.Namespace) -> None:
    """Train, record the run, and say its error rates."""
    named = experiments.get(options.experiment)
    changes = {"train.steps": options.steps, **arguments.changes_of(options)}
    plan, texts = make_plan(open_competition(options.data), named, changes, options.transcripts)

    def work() -> dict[str, Any]:
        from src.apps.ctc.run import run

        return run(plan, texts)

    words = ["--transcripts", str(options.transcripts)] if options.transcripts else []
    result = TASK.train(plan, named, options, work, words, amend=lambda row: row | {"head": "ctc"})
    held_out = "" if result["valid"] is None else \
        f", {result['valid']:.4f} on {result['num_valid']} utterances of speakers held out"
    print(f"ctc: {TASK.metric} {result['train']:.4f} on training utterances{held_out}, {result['seconds']:.1f} s; "
          f"curves and decoded texts: {plan.directory}/fold_*")
