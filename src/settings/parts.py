"""The parts that can be named in an experiment: read from their source, checked strictly, imported when built.

Each file of parts ends in a plain dict such as `POOLINGS = {"mean": MeanPooling, ...}`. The constructor's arguments
without a default are given by the composition (`input_dim`, `num_speakers`); those with a default are the part's
settings. Names, settings and defaults are read from the source text, so that a mistyped setting stops in
milliseconds, before torch is imported, and so that a default spelled out has the same digest as one left alone.
"""

import ast
import functools
import importlib
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from src.base.errors import SettingError, nearest
from src.settings.config import Experiment, Part, to_json

SRC = Path(__file__).parents[1]
SLOTS = {  # slot -> files that hold its parts, the dict at their foot
    "encoder": ("model/[ec]*/*.py", "ENCODERS"),
    "pooling": ("model/pooling.py", "POOLINGS"),
    "head": ("model/heads.py", "HEADS"),
    "augment": ("augment/*.py", "AUGMENTATIONS"),
}


@dataclass(frozen=True)
class Registered:
    """A registered part: its module and class, and its settings with their defaults."""

    module: str
    class_name: str
    settings: dict[str, Any]
    takes: str | None  # what an encoder takes: "frames", "waveform", or whole "utterances" as classical models do
    kinds: tuple[str, ...]  # what an augmentation fits: "logmel", "cepstra", "waveform"
    sample_rate: int | None  # Hz of the rooms and lines that an augmentation imitates, where it imitates any

    def load(self) -> type:
        """Import the part's module and return its class."""
        return getattr(importlib.import_module(self.module), self.class_name)


@functools.cache
def catalogue(slot: str) -> dict[str, Registered]:
    """Return {name: part} of a slot ("encoder", "pooling", "head", "augment") without importing any of them."""
    pattern, dict_name = SLOTS[slot]
    found: dict[str, Registered] = {}
    for path in sorted(SRC.glob(pattern)):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module = ".".join(("src", *path.relative_to(SRC).with_suffix("").parts))
        classes = _classes(tree)
        for node in tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == dict_name:
                for key, value in zip(node.value.keys, node.value.values):
                    found[key.value] = _read_class(classes, classes[value.id], module)
    return found


def _classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    """Return {name: class} of a file: its own classes, and those that it imports from this package."""
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("src.augment."):
            path = SRC.joinpath(*node.module.split(".")[1:]).with_suffix(".py")
            others = _classes(ast.parse(path.read_text(encoding="utf-8")))
            classes |= {alias.name: others[alias.name] for alias in node.names if alias.name in others}
    return classes


def _read_class(classes: dict[str, ast.ClassDef], node: ast.ClassDef, module: str) -> Registered:
    """Read settings and class attributes, looking in base classes where the class has none."""
    settings: dict[str, Any] | None = None
    attributes: dict[str, Any] = {}
    chain, current = [], node
    while current is not None:
        chain.append(current)
        bases = [base.id for base in current.bases if isinstance(base, ast.Name) and base.id in classes]
        current = classes[bases[0]] if bases else None
    for current in chain:
        for item in current.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__" and settings is None:
                arguments = item.args
                positional = arguments.args[len(arguments.args) - len(arguments.defaults) :]
                pairs = [*zip(positional, arguments.defaults), *zip(arguments.kwonlyargs, arguments.kw_defaults)]
                settings = {argument.arg: ast.literal_eval(value) for argument, value in pairs if value is not None}
            name = getattr(item.targets[0], "id", None) if isinstance(item, ast.Assign) else None
            if name in ("takes", "kinds", "sample_rate"):
                attributes.setdefault(name, ast.literal_eval(item.value))
    return Registered(module, node.name, settings or {}, attributes.get("takes"), tuple(attributes.get("kinds", ())),
                      attributes.get("sample_rate"))


def lookup(slot: str, name: str) -> Registered:
    """Return a registered part; raises SettingError with the nearest valid name."""
    registered = catalogue(slot)
    if name not in registered:
        raise SettingError(f"{slot}: unknown part '{name}'{nearest(name, registered)}")
    return registered[name]


def complete(slot: str, part: Part) -> Part:
    """Return `part` with every setting spelled out; raises SettingError for an unknown or ill-typed one."""
    settings = lookup(slot, part.name).settings
    filled = dict(settings)
    for key, value in part.kwargs.items():
        if key not in settings:
            instead = f"; --set {slot}={value} takes another part" if key == "name" else nearest(key, settings)
            raise SettingError(f"{slot}.{key}: '{part.name}' has no such setting{instead}")
        filled[key] = _fit(settings[key], value, f"{slot}.{key}")
        if slot != "augment":  # which may count none, or downwards
            _check_size(filled[key], 1 if settings[key] else 0, f"{slot}.{key}")
    return Part(part.name, filled)


def _fit(default: Any, value: Any, dotted: str) -> Any:
    """Return `value` in the type of `default`."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(default, tuple) and isinstance(value, (list, tuple)):
        return tuple(_fit(default[0], item, dotted) for item in value) if default else tuple(value)
    if default is not None and type(value) is not type(default):
        raise SettingError(f"{dotted}: {value!r} is not a {type(default).__name__} like the default {default!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingError(f"{dotted}: {value!r} is not finite")
    return value


def _check_size(value: Any, smallest: int, dotted: str) -> None:
    """Raise SettingError for a whole number, or one of several, under `smallest`.

    Sizes and counts are 1 or more where their default is; where that is 0 it stands for "none".
    """
    for number in value if isinstance(value, tuple) else (value,):
        if type(number) is int and number < smallest:
            raise SettingError(f"{dotted}: {number} is below {smallest}")


def complete_experiment(experiment: Experiment) -> Experiment:
    """Return `experiment` with every part checked and its settings spelled out, but for what is still "auto"."""
    augment, encoder = experiment.augment, experiment.encoder
    return replace(
        experiment,
        encoder=encoder if encoder.name == "auto" else complete("encoder", encoder),
        pooling=complete("pooling", experiment.pooling),
        head=complete("head", experiment.head),
        augment=augment if augment == "auto" else tuple(complete("augment", item) for item in augment),
    )


def essential(experiment: Experiment) -> dict[str, Any]:
    """Return the settings of a complete experiment that differ from their defaults: what its digest is taken of.

    A setting that is added later, with a default that leaves everything as it was, changes no digest.
    """
    defaults = {field.name: to_json(field.default) for field in fields(Experiment)}

    def differing(value: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
        return {key: item for key, item in value.items() if key not in default or item != default[key]}

    def part_of(slot: str, value: dict[str, Any]) -> dict[str, Any]:
        return differing(value, {key: to_json(item) for key, item in lookup(slot, value["name"]).settings.items()})

    found: dict[str, Any] = {}
    for key, value in experiment.settings().items():
        if key in ("encoder", "pooling", "head"):
            found[key] = part_of(key, value)
        elif key == "augment":
            found[key] = [part_of("augment", item) for item in value]
        elif value != defaults[key]:
            found[key] = differing(value, defaults[key]) if isinstance(value, dict) else value
    return found


def build(slot: str, part: Part, *composed: Any) -> Any:
    """Import and construct a part; `composed` are the arguments that the composition gives.

    Raises SettingError when the part refuses its settings (a model size that its heads do not divide, say).
    """
    part = complete(slot, part)
    try:
        return lookup(slot, part.name).load()(*composed, **part.kwargs)
    except (ValueError, AssertionError) as error:
        raise SettingError(f"{slot} '{part.name}': {error}") from error
