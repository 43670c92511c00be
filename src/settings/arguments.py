"""From a command line to a checked experiment: --data, --experiment, --set and --smoke, declared and read in one place.

A command may ask for several experiments (a ladder's rungs, what bench compares, a study's base), and the list of them,
src/experiments.py, imports this room. `resolve` is therefore handed the experiment that was named:

    resolve(options, experiments.get(options.experiment))

What is "auto" is filled in, and the digest taken, when the store is known: see `make_plan` in src/runs/plan.py.
"""

import argparse
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from src.settings.auto import check_limits
from src.settings.config import Experiment, override, parse_assignments
from src.settings.parts import complete_experiment

ARGUMENTS: dict[str, dict[str, Any]] = {
    "data": {"default": "japanese_vowels", "metavar": "NAME_OR_DIR",
             "help": "a competition under data/, or any folder (default: %(default)s)"},
    "experiment": {"default": "default", "metavar": "NAME",
                   "help": "an experiment's name or a promoted .json file (default: %(default)s)"},
    "set": {"action": "append", "default": [], "metavar": "KEY=VALUE",
            "help": "replace a setting, such as optim.lr=3e-4; may be repeated"},
    "smoke": {"action": "store_true", "help": "cut to a minute or two, in a workspace of its own (data/smoke)"},
}
SMOKE = {"folds": 1, "train.steps": 30, "train.valid_every": 15}  # everything else stays as it is
NOTHING: Mapping[str, Any] = MappingProxyType({})


def add_arguments(parser: argparse.ArgumentParser, *names: str, **changes: dict[str, Any]) -> None:
    """Declare the arguments in `names`, as ARGUMENTS has them, and those in `changes`, with what is different here.

    changes: argparse's keywords by argument, such as data={"required": True, "help": "a competition with audio"}.
    """
    for name, usual in ARGUMENTS.items():
        if name in names or name in changes:
            parser.add_argument(f"--{name}", **usual | changes.get(name, {}))


def changes_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return {dotted key: value} of every --set; raises SettingError for one that is not written key=value."""
    return parse_assignments(options.set)


def resolve(options: argparse.Namespace, named: Experiment, defaults: Mapping[str, Any] = NOTHING) -> Experiment:
    """Return `named` with `defaults`, then every --set, then --smoke applied, checked as far as no data is needed.

    defaults: the command's own values by dotted key. Parts keep the settings that are spelled out, so that the result
    can be compared with `named`. Raises SettingError for an unknown, ill-typed or impossible setting.
    """
    experiment = override(named, {**defaults, **changes_of(options)})
    complete_experiment(experiment)
    check_limits(experiment)
    return override(experiment, SMOKE) if getattr(options, "smoke", False) else experiment
