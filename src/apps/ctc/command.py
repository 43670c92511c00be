"""Speech to characters by CTC: an experiment's encoder and transcripts in, a model and its token error rate out.

    python -m src ctc --data so762 --experiment wav2vec2 --steps 6000 --set encoder.size=small

Beside the stream: its metric is the token error rate, which ensemble and submit do not take. This file plans and
records a run, `src.apps.ctc.run` does it in data/runs/<competition>/ctc-<experiment>-<digest8>/.
"""

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from src import experiments
from src.apps.ctc.transcripts import read_transcripts
from src.base.errors import SettingError
from src.base.files import digest, read_json
from src.competition.open import Competition, open_competition
from src.ledger import file as ledger
from src.ledger.record import do_once
from src.ledger.row import make_row
from src.runs.plan import Plan, hash_weights
from src.settings import arguments
from src.settings.auto import DataSummary, adapt
from src.settings.config import Experiment, override
from src.settings.parts import essential, lookup
from src.store.ensure import ensure_store

VERSION = 4  # raise it when the same settings would give another model
METRIC = "token error rate"  # as src.apps.ctc.ctc says it, which imports torch
START = {  # where the experiment's own values are for telling speakers apart
    "features.store": "waveform",
    "augment": (),
    "folds": 1,
    "train.batch_size": 16,
    "train.valid_every": "auto",
    "train.select": "last",
}
USED = ("encoder", "finetune", "features", "optim", "train.steps", "train.batch_size", "train.valid_every",
        "train.select", "train.precision", "train.threads", "train.device", "infer.frame_budget", "folds", "seed")


def make_plan(competition: Competition, experiment: Experiment, changes: Mapping[str, Any],
              transcripts: Path | None = None) -> tuple[Plan, dict[str, str]]:
    """Return what training the experiment's encoder will be and its texts {utt_id: transcript}; make a missing store.

    changes: settings by dotted key. Raises SettingError for a setting that CTC does not use or an encoder that takes
    no waveforms, InputError where there are no transcripts.
    """
    for key in changes:
        if not any(key == used or key.startswith(f"{used}.") for used in USED):
            raise SettingError(f"{key}: CTC does not use this setting; it uses {', '.join(USED)}")
    experiment = override(experiment, START | dict(changes))
    if lookup("encoder", experiment.encoder.name).takes != "waveform":
        raise SettingError(f"encoder '{experiment.encoder.name}' takes log-mels; CTC trains encoders that take "
                           "waveforms, such as wav2vec2")
    if experiment.finetune.remove:
        raise SettingError("finetune.remove: the least important heads are measured where speakers are told apart; "
                           "list them in finetune.heads")
    texts = read_transcripts(competition, transcripts)
    store_dir = ensure_store(competition, experiment.features)
    complete = _complete(experiment, store_dir)
    settings = hash_weights(essential(complete))
    content = {"stage": "ctc", "version": VERSION, "store": read_json(store_dir / "meta.json")["digest"],
               "texts": texts,
               "settings": {key: settings.get(key)
                            for key in ("encoder", "finetune", "optim", "train", "infer", "folds", "seed")}}
    return Plan(competition.name, complete, store_dir, digest(content)), texts


def _complete(experiment: Experiment, store_dir: Path) -> Experiment:
    """Return the experiment with no "auto" left, under its name as a CTC run."""
    summary = DataSummary.from_json(read_json(store_dir / "meta.json")["summary"])
    complete = replace(adapt(experiment, summary), name=f"ctc-{experiment.name}")
    if experiment.train.valid_every == "auto" and complete.train.valid_every:
        complete = override(complete, {"train.valid_every": max(1, complete.train.steps // 20)})
    return complete


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
    named, changes = experiments.get(options.experiment), arguments.changes_of(options)
    plan, texts = make_plan(open_competition(options.data), named, {"train.steps": options.steps, **changes},
                            options.transcripts)
    print(f"ctc: {plan.run_id}" + (" is there, skipped" if plan.is_done() else ""), flush=True)
    parent = None
    if set(changes) - {"seed"}:
        parent = _complete(override(named, START | {"train.steps": options.steps}), plan.store_dir)

    def work() -> dict[str, Any]:
        from src.apps.ctc.run import run
        from src.store.store import Store

        return run(plan, texts, Store.open(plan.store_dir))

    result = do_once(plan, work, partial(_record, plan, parent, options), plan.is_done())
    held_out = "" if result["valid"] is None else \
        f", {result['valid']:.4f} on {result['num_valid']} utterances of speakers held out"
    print(f"ctc: {METRIC} {result['train']:.4f} on training utterances{held_out}, {result['seconds']:.1f} s; curves "
          f"and decoded texts: {plan.directory}/fold_*")


def _record(plan: Plan, parent: Experiment | None, options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Append the run's row; its head is CTC and it has no pooling."""
    words = ["bash", "run.sh", "ctc", "--data", str(options.data), "--experiment", options.experiment, "--steps",
             str(options.steps)]
    words += ["--transcripts", str(options.transcripts)] if options.transcripts else []
    words += [word for assignment in options.set for word in ("--set", assignment)]
    row = make_row(plan.experiment, competition=plan.competition, run_id=plan.run_id, digest=plan.digest,
                   result={"metric": METRIC, **result}, parent=parent, command=shlex.join(words))
    row |= dict.fromkeys(("pooling", "batch_norm", "embedding_dropout", "mean_norm", "crop_frames"), "")
    ledger.record(row | {"head": "ctc"})
