"""What an experiment is: frozen dataclasses, strict overrides by dotted key, JSON both ways.

A part of a model or of the augmentation is a `Part`: a registered name and its own settings. A value of "auto" is
filled in by `src.settings.auto` from the data at hand before anything is trained.
"""

import ast
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from src.base.errors import SettingError, nearest

Auto = Literal["auto"]
Regime = Literal["full", "freeze_first", "embedding_and_last", "first_layers", "remove_heads"]
REGIMES: tuple[str, ...] = typing.get_args(Regime)


@dataclass(frozen=True)
class Part:
    """A registered part by name, with its settings; those not given keep the part's own defaults."""

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def part(name: str, **kwargs: Any) -> Part:
    """Return `Part(name, kwargs)`; reads well in experiments.py."""
    return Part(name, kwargs)


@dataclass(frozen=True)
class Features:
    """What preprocess stores. Only `store` and `num_mels` concern input that comes as log-mels."""

    store: Literal["logmel", "waveform"] = "logmel"
    sample_rate: int = 16000  # Hz
    peak_db: float = -3.0  # every utterance is scaled to this peak, dB relative to full scale
    num_mels: int = 40
    n_fft: int = 400  # samples
    win_length: int = 400  # samples
    hop_length: int = 160  # samples
    f_min: float = 50.0  # Hz
    log_floor: float = 1e-9  # smallest power whose logarithm is taken


@dataclass(frozen=True)
class Frontend:
    """What the model does to frames before its encoder."""

    # Subtract each utterance's mean over time (CMN); "both": the frames as they are, and beside them less their mean.
    mean_norm: Literal["both"] | bool | Auto = False


@dataclass(frozen=True)
class Embedding:
    """What stands between pooling and head, in this order: projection, batch norm, dropout."""

    dim: int | Auto = 0  # size of the linear projection; 0: none
    batch_norm: bool = False
    dropout: float = 0.0


@dataclass(frozen=True)
class Optim:
    """AdamW with linear warm-up and a cosine down to zero (Loshchilov & Hutter, 2017; 2019)."""

    name: Literal["adamw", "adam"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 1000  # at most a tenth of the run
    grad_clip: float = 0.0  # largest norm of the gradient; 0: no clipping
    ema_decay: float = 0.0  # exponential moving average of the weights that is validated and kept; 0: none


@dataclass(frozen=True)
class Finetune:
    """How much of the encoder learns (see src.model.finetune); all but "full" want an encoder with attention layers."""

    regime: Regime = "full"
    layers: int = 9  # of freeze_first and first_layers
    heads: tuple[tuple[int, int], ...] = ()  # (layer, head) from 0 that remove_heads takes out
    remove: int = 0  # or that many of the least important, measured before the first step


@dataclass(frozen=True)
class Train:
    """One fit: how long, on what crops, in which numbers."""

    steps: int | Auto = "auto"
    batch_size: int = 32
    crop_frames: int | Auto = 128
    # Utterances shorter than a crop: masked padding, or begun again; "device": padding on a CPU, begun again on a GPU.
    short: Literal["device", "pad", "repeat"] | Auto = "device"
    label_smoothing: float = 0.0
    mixup: float = 0.0  # alpha of Beta(alpha, alpha) (Zhang et al., 2018); 0: none
    pseudo_labels: str = ""  # a run or blend whose surest test predictions join the training part
    pseudo_share: float = 0.7  # of the test utterances that do
    balanced: bool = False  # draw every class equally often: small ones come again and again, large ones in part
    speed_classes: bool = False  # the speed augmentation's copies are classes of their own in the training head
    valid_every: int | Auto = "auto"  # steps between validations
    select: Literal["best", "last"] = "best"  # which weights a fold keeps
    precision: Literal["float32", "bfloat16"] | Auto = "auto"  # autocast of the forward pass
    compile: bool = False  # torch.compile of the model
    capture: bool = True  # on a GPU, an encoder of log-mels: forward and backward pass as one CUDA graph
    threads: int | Auto = "auto"  # CPU threads of a process
    processes: int = 1  # that share every batch: as many as torchrun has started
    device: Literal["cpu", "cuda"] | Auto = "auto"


@dataclass(frozen=True)
class Infer:
    """How logits are made of an utterance."""

    crops: int = 0  # crops of the training length whose log-posteriors join the whole utterance's; 0: whole only
    frame_budget: int = 16000  # frames of a padded batch


@dataclass(frozen=True)
class Experiment:
    """Everything that decides a run's result, and where it came from."""

    name: str
    encoder: Part
    pooling: Part
    head: Part
    augment: Auto | tuple[Part, ...] = ()
    parent: str = ""
    hypothesis: str = ""
    features: Features = Features()
    frontend: Frontend = Frontend()
    embedding: Embedding = Embedding()
    optim: Optim = Optim()
    finetune: Finetune = Finetune()
    train: Train = Train()
    infer: Infer = Infer()
    folds: int | Literal["all"] | Auto = 5  # k folds; 1: one part held out; all: no validation
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """Return what decides the result, as plain JSON values: all but name, parent and hypothesis."""
        content = to_json(self)
        return {key: value for key, value in content.items() if key not in ("name", "parent", "hypothesis")}


def to_json(value: Any) -> Any:
    """Return a dataclass of this module as plain dicts, lists and scalars."""
    if isinstance(value, Part):
        return {"name": value.name, **{key: to_json(item) for key, item in value.kwargs.items()}}
    if dataclasses.is_dataclass(value):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def from_json(content: Mapping[str, Any]) -> Experiment:
    """Return the experiment that `to_json` wrote; an unknown key or a wrong type raises SettingError."""
    return _build(Experiment, content, "")


def override(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """Return `experiment` with each dotted key of `changes` replaced.

    `{"optim.lr": 3e-4}` sets a field, `{"encoder.num_layers": 3}` a part's setting, `{"encoder": part("ecapa")}` or
    `{"encoder": "ecapa"}` a part. Raises SettingError for an unknown key (with the nearest valid one) or a wrong type.
    """
    for key, value in changes.items():
        experiment = _replace(experiment, key.split("."), value, key)
    return experiment


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Return {key: value} of `--set key=value` strings; values read as Python literals, else as text."""
    changes = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise SettingError(f"--set {assignment}: write key=value, such as optim.lr=3e-4")
        try:
            changes[key.strip()] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            changes[key.strip()] = {"true": True, "false": False, "none": None}.get(text.strip().lower(), text.strip())
    return changes


def flatten(experiment: Experiment) -> dict[str, Any]:
    """Return {dotted key: plain value} of an experiment's settings; augmentations are keyed by their name."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{prefix}.{key}" if prefix else key, item)
        elif prefix == "augment" and value != "auto":
            for item in value:
                walk(f"augment.{item['name']}", {"on": True, **{k: v for k, v in item.items() if k != "name"}})
        else:
            flat[prefix.removesuffix(".name")] = value

    walk("", experiment.settings())
    return flat


def _replace(target: Any, keys: list[str], value: Any, dotted: str) -> Any:
    key, rest = keys[0], keys[1:]
    if isinstance(target, Part):
        if rest:
            raise SettingError(f"{dotted}: a part's settings have no parts of their own")
        return Part(target.name, {**target.kwargs, key: value})
    if isinstance(target, tuple):  # the augmentations, keyed by name
        names = [item.name for item in target]
        if key not in names:
            raise SettingError(f"{dotted}: the experiment has no augmentation '{key}'{nearest(key, names)}")
        at = names.index(key)
        if not rest:
            return target[:at] + target[at + 1 :] if value in (False, None) else target
        return (*target[:at], _replace(target[at], rest, value, dotted), *target[at + 1 :])
    if not dataclasses.is_dataclass(target):
        raise SettingError(f"{dotted}: '{key}' is below a plain value")
    hints = typing.get_type_hints(type(target))
    if key not in hints:
        raise SettingError(f"{dotted}: unknown setting '{key}'{nearest(key, hints)}")
    if rest:
        return dataclasses.replace(target, **{key: _replace(getattr(target, key), rest, value, dotted)})
    return dataclasses.replace(target, **{key: _convert(hints[key], value, dotted)})


def _convert(hint: Any, value: Any, dotted: str) -> Any:
    """Return `value` as `hint` asks, or raise SettingError. An int is a float too; a bool is never a number."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for choice in typing.get_args(hint):
            try:
                return _convert(choice, value, dotted)
            except SettingError:
                continue
    elif origin is Literal:
        if value in typing.get_args(hint):
            return value
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_convert(typing.get_args(hint)[0], item, dotted) for item in value)
        if isinstance(value, (str, Part)):
            return (_convert(typing.get_args(hint)[0], value, dotted),)
    elif hint is Part:
        if isinstance(value, Part):
            return value
        if isinstance(value, str):
            return Part(value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            return Part(value["name"], {key: item for key, item in value.items() if key != "name"})
    elif dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if isinstance(value, Mapping):
            return _build(hint, value, dotted)
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    raise SettingError(f"{dotted}: {value!r} is not {_describe(hint)}")


def _build(kind: type, content: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in content.items():
        dotted = f"{prefix}.{key}" if prefix else key
        if key not in hints:
            raise SettingError(f"{dotted}: unknown setting '{key}'{nearest(key, hints)}")
        values[key] = _convert(hints[key], value, dotted)
    missing = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING
               and f.default_factory is dataclasses.MISSING and f.name not in values]
    if missing:
        raise SettingError(f"{prefix or 'experiment'}: missing {', '.join(missing)}")
    return kind(**values)


def _describe(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(choice) for choice in typing.get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(hint))
    if origin is tuple:
        return f"a list of {_describe(typing.get_args(hint)[0])}"
    return {Part: "a part's name", int: "a whole number", float: "a finite number", bool: "true or false",
            str: "text"}.get(hint, getattr(hint, "__name__", str(hint)))
