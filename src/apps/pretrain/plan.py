"""What a pretraining will be before it is done: its settings, its encoder, its digest and its row in the ledger."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from src.apps.task import Task
from src.base.errors import SettingError
from src.base.files import digest
from src.competition.open import Competition
from src.runs.plan import Plan
from src.settings.config import Experiment, override
from src.settings.parts import complete, lookup
from src.store.ensure import ensure_store

TASK = Task(
    name="pretrain", title="pretraining", version=1, metric="contrastive accuracy",
    used=("pretrain", "encoder", "features", "optim", "train.steps", "train.batch_size", "train.crop_frames",
          "train.valid_every", "train.precision", "train.threads", "train.device", "seed"),
    start={  # where the experiment's own values are for training with labels
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
    },
    digested=("encoder", "optim", "train", "seed"), num_logs=100, stage="pretrain",
    empty=("folds", "pooling", "head", "batch_norm", "embedding_dropout", "mean_norm"))


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
    TASK.check(changes)
    own = {key: value for key, value in changes.items() if key.startswith("pretrain.")}
    pretrain = override(_Settings(), own).pretrain
    _check(pretrain)
    experiment = override(experiment, {**TASK.start, **{key: changes[key] for key in changes if key not in own}})
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
    adapted = TASK.complete(experiment, store_dir)
    run_digest = TASK.digest_of(adapted, store_dir, pretrain=asdict(pretrain))
    return PretrainPlan(competition.name, adapted, store_dir, run_digest, pretrain)


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


def amend_row(row: dict[str, Any], pretrain: Pretraining) -> dict[str, Any]:
    """Return a ledger row that also says, and is grouped by, what the encoder was pretrained with."""
    usual = asdict(Pretraining())
    differences = [f"pretrain.{key}: {usual[key]} → {value}" for key, value in asdict(pretrain).items()
                   if value != usual[key]]
    changed = "; ".join(filter(None, [row["changed"], *differences]))
    groups = {column: row[column] and digest([row[column], settings])[:8]
              for column, settings in (("group", asdict(pretrain)), ("parent_group", usual))}
    return row | {"changed": changed} | groups
