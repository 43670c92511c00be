"""Pretraining without labels: all audio of a competition in, an encoder file that train takes out.

    python -m src pretrain --data so762 --experiment wav2vec2 --steps 3000 --set encoder.size=small
    python -m src train --data so762 --experiment wav2vec2 --set encoder.size=small --set encoder.weights=PATH

The encoder is the named experiment's (wav2vec2 or wav2vec2_decoder); what pretraining does with it is `Pretraining` and
START, changed by --set. Training and test utterances are heard alike, no label is read. Writes
data/runs/<competition>/pretrain-<experiment>-<digest8>/ with log.csv, curves.png, encoder.pt and, last, result.json. A
finished run is never done again; a stopped one goes on and ends in the same bytes.
"""

import argparse
import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from src import experiments
from src.base.errors import SettingError
from src.base.files import digest, lock, read_json, write_json
from src.base.text import timestamp
from src.competition.open import Competition, open_competition
from src.ledger import file as ledger
from src.ledger.record import do_once
from src.ledger.row import make_row
from src.runs.plan import Plan, hash_weights
from src.settings import arguments
from src.settings.auto import DataSummary, adapt
from src.settings.config import Experiment, override
from src.settings.parts import complete, essential, lookup
from src.store.ensure import ensure_store

if TYPE_CHECKING:
    from src.store.store import Store

METRIC = "contrastive accuracy"
VERSION = 1  # raise it when the same settings would give another encoder
START = {  # where the experiment's own values are for training with labels
    "features.store": "waveform",
    "augment": (),
    "optim.lr": 5e-4,  # the paper's, after a warm-up over the first 8 % of the steps; here at most 10 %
    "optim.warmup_steps": 32000,
    "optim.weight_decay": 0.01,
    "optim.grad_clip": 0.0,
    "optim.ema_decay": 0.0,
    "train.batch_size": 16,
    "train.crop_frames": 250,  # 2.5 s; the paper's 15.6 s are longer than most utterances
    "train.valid_every": "auto",
    "folds": 1,  # says nothing here; but a log has rows between the first and the last step
}
USED = ("encoder", "features", "optim", "train.steps", "train.batch_size", "train.crop_frames", "train.valid_every",
        "train.precision", "train.threads", "train.device", "seed")  # settings of an experiment that pretraining reads
PANELS = {
    "loss": ("loss",), "contrastive loss Lm": ("lm",), "diversity loss Ld": ("ld",),
    "cosine similarity": ("positive_similarity", "negative_similarity"), "contrastive accuracy": ("accuracy",),
    "code perplexity": ("code_perplexity",), "learning rate": ("lr",),
}


@dataclass(frozen=True)
class Pretraining:
    """How wav2vec 2.0 is pretrained. Where nothing is said, the value is the paper's (Baevski et al., 2020)."""

    mask_share: float = 0.065  # of frames that start a masked span
    mask_span: int = 10  # frames
    negatives: int | Literal["all"] = "all"  # every other masked frame (the lab's); the paper draws 100
    similarity_temperature: float = 0.1
    diversity: float = 100.0  # weight of Ld (the lab's); the paper's is 0.1; in a few thousand steps 10 learns more
    num_groups: int = 2
    num_entries: int = 320  # in each group
    code_dim: int = 256
    temperature: float = 2.0  # of the quantiser, at the first step
    temperature_decay: float = 0.999995  # factor a step
    temperature_floor: float = 0.5
    dropout: float = 0.1  # of what the quantiser sees


@dataclass(frozen=True)
class PretrainPlan(Plan):
    """A pretraining before it is done."""

    pretrain: Pretraining = field(default_factory=Pretraining)


def make_plan(competition: Competition, experiment: Experiment, changes: Mapping[str, Any]) -> PretrainPlan:
    """Return what pretraining the experiment's encoder will be, making the store where it is missing.

    changes: settings by dotted key, those of `Pretraining` under "pretrain.". Raises SettingError for a setting that
    pretraining does not use and for an encoder that cannot be pretrained.
    """
    for key in changes:
        if not any(key == used or key.startswith(f"{used}.") for used in (*USED, "pretrain")):
            raise SettingError(f"{key}: pretraining does not use this setting; it uses pretrain.* and "
                               f"{', '.join(USED)}")
    own = {key: value for key, value in changes.items() if key.startswith("pretrain.")}
    pretrain = override(_Settings(), own).pretrain
    _check(pretrain)
    experiment = override(experiment, START | {key: value for key, value in changes.items() if key not in own})
    registered = lookup("encoder", experiment.encoder.name)
    if registered.module != "src.model.encoders.wav2vec2":
        raise SettingError(f"encoder '{experiment.encoder.name}' cannot be pretrained; take the experiment wav2vec2 "
                           "or wav2vec2_decoder")
    rate = complete("encoder", experiment.encoder).kwargs.get("rate", 1.0)
    if not 0.0 < rate <= 1.0:
        raise SettingError(f"encoder.rate={rate}: must lie above 0 and at most at 1")
    if pretrain.mask_span * rate < 1.0:
        raise SettingError(f"pretrain.mask_span={pretrain.mask_span}: encoder.rate={rate} could skip every masked "
                           f"frame; make it {math.ceil(1 / rate)} at least")
    store_dir = ensure_store(competition, experiment.features)
    adapted = _complete(experiment, store_dir)
    settings = hash_weights(essential(adapted))
    content = {"stage": "pretrain", "version": VERSION, "store": read_json(store_dir / "meta.json")["digest"],
               "pretrain": asdict(pretrain),
               "settings": {key: settings.get(key) for key in ("encoder", "optim", "train", "seed")}}
    return PretrainPlan(competition.name, adapted, store_dir, digest(content), pretrain)


def _complete(experiment: Experiment, store_dir: Path) -> Experiment:
    """Return the experiment with no "auto" left, under its name as a pretraining, which logs a hundred times."""
    summary = DataSummary.from_json(read_json(store_dir / "meta.json")["summary"])
    complete = replace(adapt(experiment, summary), name=f"pretrain-{experiment.name}")
    if experiment.train.valid_every == "auto":
        complete = override(complete, {"train.valid_every": max(1, complete.train.steps // 100)})
    return complete


@dataclass(frozen=True)
class _Settings:
    """Makes `override` say "pretrain.…" where a key or a type is wrong."""

    pretrain: Pretraining = field(default_factory=Pretraining)


def _check(pretrain: Pretraining) -> None:
    p = pretrain
    if not 0.0 < p.mask_share <= 1.0 or not 0.0 <= p.dropout < 1.0:
        raise SettingError("pretrain.mask_share must lie in (0, 1], pretrain.dropout in [0, 1)")
    if min(p.mask_span, p.num_groups, p.num_entries, p.code_dim) < 1 or (p.negatives != "all" and p.negatives < 1):
        raise SettingError("pretrain.mask_span, negatives, num_groups, num_entries and code_dim must be at least 1")
    if p.code_dim % p.num_groups:
        raise SettingError(f"pretrain.code_dim: {p.code_dim} is not divided by pretrain.num_groups, {p.num_groups}")
    if min(p.similarity_temperature, p.temperature, p.temperature_floor) <= 0 or not 0 < p.temperature_decay <= 1:
        raise SettingError("pretrain: temperatures must be above 0, temperature_decay in (0, 1]")


def quantiser_temperature(step: int, pretrain: Pretraining) -> float:
    """Return the quantiser's temperature at a 0-based step."""
    return max(pretrain.temperature_floor, pretrain.temperature * pretrain.temperature_decay**step)


def run(plan: PretrainPlan, store: "Store") -> dict[str, Any]:
    """Pretrain what the plan says, unless it is done, and return the result.

    Two processes with the same plan never mix: the second waits. Raises RunError for a loss that is not finite.
    """
    import numpy as np
    import torch

    from src.apps.curves import draw
    from src.apps.pretrain.contrastive import ContrastivePretrainer
    from src.model.encoders.wav2vec2 import save_encoder
    from src.model.speaker_model import num_parameters
    from src.settings.parts import build
    from src.training.evaluate import autocast
    from src.training.loop import Loop, step_seed
    from src.training.sampler import CropSampler

    experiment, pretrain, directory = plan.experiment, plan.pretrain, plan.directory
    train = experiment.train
    with lock(plan.run.lock_path, f"{plan.run_id}: another process is pretraining it; waiting"):
        if plan.is_done():
            return plan.run.result
        plan.run.begin(experiment, plan.digest, store.digest)
        write_json(plan.run.pretraining_path, asdict(pretrain))
        torch.set_num_threads(train.threads)
        store = store.to(train.device)
        rows, crop_size = np.arange(len(store.num_frames)), train.crop_frames * store.samples_per_frame
        sampler = CropSampler(rows, store.num_frames, store.labels, seed=experiment.seed, fold=0,
                              crop_frames=crop_size)
        torch.manual_seed(step_seed(experiment.seed, 0, -1))
        model = ContrastivePretrainer(
            build("encoder", experiment.encoder, store.dim), mask_share=pretrain.mask_share,
            mask_span=pretrain.mask_span, num_groups=pretrain.num_groups, num_entries=pretrain.num_entries,
            code_dim=pretrain.code_dim, num_negatives=pretrain.negatives,
            similarity_temperature=pretrain.similarity_temperature, diversity=pretrain.diversity,
            dropout=pretrain.dropout).to(train.device)

        def loss_of(step: int) -> dict[str, torch.Tensor]:
            rows, starts = sampler.take(step * train.batch_size, train.batch_size)
            batch = store.crops(rows, starts, crop_size)
            rng = np.random.default_rng(step_seed(experiment.seed, 0, step))
            with autocast(train):
                return model(batch.inputs, batch.lengths, rng, quantiser_temperature(step, pretrain))

        progress = Loop(model=model, optim=experiment.optim, steps=train.steps, loss_of=loss_of, directory=directory,
                        seed=experiment.seed, device=train.device, valid_every=train.valid_every,
                        description=plan.run_id).run()
        save_encoder(directory / "encoder.pt", model.encoder)
        draw(plan.run.whole.log_path, directory / "curves.png", PANELS, plan.run_id)
        result = {
            "run_id": plan.run_id, "digest": plan.digest, "store": store.digest, "metric": METRIC,
            "train": progress.log[-1]["accuracy"], "params": num_parameters(model.encoder), "steps": train.steps,
            "folds": None, "seeds": experiment.seed, "device": train.device, "seconds": round(progress.seconds, 2),
            "finished": timestamp()}
        plan.run.whole.finish(result)
        return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src pretrain`."""
    arguments.add_arguments(
        parser, data={"required": True, "help": "a competition with audio"},
        experiment={"default": "wav2vec2", "help": "whose encoder is pretrained (default: %(default)s)"},
        set={"help": "replace a setting, such as encoder.size=small or pretrain.negatives=100"})
    parser.add_argument("--steps", type=int, default=3000, help="steps (default: %(default)s)")


def main(options: argparse.Namespace) -> None:
    """Pretrain, record the run, and say how to train from it."""
    named, changes = experiments.get(options.experiment), arguments.changes_of(options)
    plan = make_plan(open_competition(options.data), named, {"train.steps": options.steps, **changes})
    print(f"pretrain: {plan.run_id}" + (" is there, skipped" if plan.is_done() else ""), flush=True)
    parent = None
    if set(changes) - {"seed"}:
        parent = _complete(override(named, START | {"train.steps": options.steps}), plan.store_dir)

    def work() -> dict[str, Any]:
        from src.store.store import Store

        return run(plan, Store.open(plan.store_dir))

    result = do_once(plan, work, partial(_record, plan, parent, options), plan.is_done())
    print(f"pretrain: {METRIC} {result['train']:.4f} at the end, {result['seconds']:.1f} s; curves: "
          f"{plan.directory / 'curves.png'}\ntrain from it with --set encoder.weights={plan.directory / 'encoder.pt'}")


def _record(plan: PretrainPlan, parent: Experiment | None, options: argparse.Namespace,
            result: dict[str, Any]) -> None:
    """Append the run's row: grouped by what it was pretrained with too, and without pooling, head or folds."""
    words = ["bash", "run.sh", "pretrain", "--data", str(options.data), "--experiment", options.experiment, "--steps",
             str(options.steps), *[word for assignment in options.set for word in ("--set", assignment)]]
    row = make_row(plan.experiment, competition=plan.competition, run_id=plan.run_id, digest=plan.digest,
                   result={"metric": METRIC, "folds": None, **result}, parent=parent, stage="pretrain",
                   command=shlex.join(words))
    row |= dict.fromkeys(("pooling", "head", "batch_norm", "embedding_dropout", "mean_norm"), "")
    usual = asdict(Pretraining())
    differences = [f"pretrain.{key}: {usual[key]} → {value}" for key, value in asdict(plan.pretrain).items()
                   if value != usual[key]]
    row["changed"] = "; ".join(filter(None, [row["changed"], *differences]))
    for column, pretrain in (("group", asdict(plan.pretrain)), ("parent_group", usual)):
        row[column] = row[column] and digest([row[column], pretrain])[:8]
    ledger.record(row)
