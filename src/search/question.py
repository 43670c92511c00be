"""What an Optuna study asks: its competition, experiment, search space and place."""

import argparse
import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src import experiments
from src.base.files import digest, read_json
from src.base.workspace import workspace_dir
from src.competition.open import Competition, open_competition
from src.ledger.row import REPEATS
from src.runs.plan import VERSION, make_plan
from src.search.space import Space, space_for
from src.settings.arguments import resolve
from src.settings.config import Experiment, Part, flatten, override
from src.settings.parts import SLOTS, complete_experiment, essential, lookup
from src.store.ensure import ensure_store


@dataclass(frozen=True)
class Question:
    """Which settings are best for an experiment on a competition, by trials of so many steps and folds.

    data, experiment: as the command line names them. base: the experiment with its --set, its encoder and augmentations
    chosen where they were "auto", for the search draws other ones in their place; start: with the trial's steps and
    folds too, not yet adapted; space.start is `start` adapted.
    """

    competition: str
    data: str
    experiment: str
    base: Experiment
    start: Experiment
    store_dir: Path
    space: Space

    @property
    def study_name(self) -> str:
        """<competition>/<experiment>-<digest8> of everything but the machine that decides a trial's value."""
        settings = essential(complete_experiment(self.start))
        for key in REPEATS:
            section, _, name = key.rpartition(".")
            if section:  # the seed is a part of the question
                settings.get(section, {}).pop(name, None)
        content = {"stage": "tune", "version": VERSION, "store": read_json(self.store_dir / "meta.json")["digest"],
                   "settings": settings, "space": [dataclasses.asdict(item) for item in self.space.dimensions]}
        return f"{self.competition}/{self.base.name}-{digest(content)[:8]}"

    @property
    def directory(self) -> Path:
        """What the study writes beside its storage."""
        return studies_dir(self.study_name)

    def experiment_of(self, drawn: dict[str, Any]) -> Experiment:
        """Return the experiment that a trial's parameters mean, not yet adapted."""
        return self.space.apply(drawn, self.start, self.space.start.train.steps)


def studies_dir(name: str) -> Path:
    """Return the folder of a study or of a competition's studies."""
    return workspace_dir() / "data" / "studies" / name


def default_storage(competition: str, experiment: str) -> str:
    """Return the URL of the SQLite file that an experiment's studies lie in."""
    return f"sqlite:///{studies_dir(competition) / experiment}.db"


def ask(options: argparse.Namespace) -> Question:
    """Return the question of a command line (data, experiment, set, steps, folds), its store made where it is missing.

    Raises SettingError for a mistyped setting and for an experiment that validates nothing.
    """
    base = resolve(options, experiments.get(options.experiment))
    start = override(base, {"folds": options.folds or 1} | ({"train.steps": options.steps} if options.steps else {}))
    competition = open_competition(options.data)
    store_dir = store_of(competition, base)
    adapted = make_plan(competition.name, store_dir, start).experiment
    base, start = (dataclasses.replace(one, encoder=adapted.encoder, augment=adapted.augment) for one in (base, start))
    space = space_for(adapted, read_json(store_dir / "meta.json")["kind"])
    return Question(competition.name, str(options.data), options.experiment, base, start, store_dir, space)


def store_of(competition: Competition, experiment: Experiment) -> Path:
    """Return the store that an experiment is trained on, made where it is missing."""
    return ensure_store(competition, experiment.features)


def command_of(data: str, name: str, experiment: Experiment) -> str:
    """Return the command line that trains `experiment`, said as its difference from the one named `name`."""
    words = ["bash", "run.sh", "train", "--data", data, "--experiment", name]
    words += [word for item in assignments(experiments.get(name), experiment) for word in ("--set", item)]
    return shlex.join(words)


def assignments(old: Experiment, new: Experiment) -> list[str]:
    """Return the --set arguments that make `new` of `old`, name and hypothesis aside."""
    old, new = complete_experiment(old), complete_experiment(new)
    said = []
    for slot in ("encoder", "pooling", "head"):
        before, after = getattr(old, slot), getattr(new, slot)
        kept = before.kwargs if before.name == after.name else lookup(slot, after.name).settings
        said += [f"{slot}={after.name}"] if before.name != after.name else []
        said += [f"{slot}.{key}={_text(value)}" for key, value in after.kwargs.items() if value != kept[key]]
    if new.augment != old.augment:
        said.append(f"augment={[_short(item) for item in new.augment]!r}")
    before, after = flatten(old), flatten(new)
    return said + [f"{key}={_text(value)}" for key, value in after.items()
                   if key.partition(".")[0] not in SLOTS and value != before[key]]


def _short(item: Part) -> dict[str, Any]:
    defaults = lookup("augment", item.name).settings
    return {"name": item.name, **{key: value for key, value in item.kwargs.items() if value != defaults[key]}}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
