"""What a search asks, and one trial of it: the experiment that was drawn, trained as any other, pruned, recorded.

In: a competition, an experiment, and how long a trial trains. Out: a trial's validation accuracy, a ledger row for it,
and in data/studies/<competition>/<experiment>-<digest8>/trials/ its settings, log and result, without its weights. A
trial that was stopped or killed leaves its last checkpoint there and goes on from it.
"""

import dataclasses
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch

from src import experiments, ledger
from src.adapt import usable_cpus
from src.competition import Competition, open_competition
from src.config import Experiment, Part, flatten, override, parse_assignments
from src.errors import DivergedError, SettingError
from src.files import digest, read_json
from src.ledger_row import REPEATS
from src.parts import SLOTS, complete_experiment, essential, lookup
from src.plan import VERSION, Plan, make_plan
from src.preprocess import find_store, preprocess
from src.record import write_row
from src.search_space import Space, space_for
from src.store import Store
from src.train import run
from src.workspace import workspace_dir

HEAVY = ("model.pt", "best.pt", "last.pt", "valid.npz", "test.npz")
REPORTS = 10  # a fold's validations as a pruner sees them: one a tenth of its steps


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


def ask(data: str, experiment: str, settings: list[str], steps: int | None, folds: int) -> Question:
    """Return the question of a command line, its store made where it is missing.

    Raises SettingError for a mistyped setting and for an experiment that validates nothing.
    """
    base = override(experiments.get(experiment), parse_assignments(settings))
    complete_experiment(base)
    start = override(base, {"folds": folds} | ({"train.steps": steps} if steps else {}))
    competition = open_competition(data)
    store_dir = store_of(competition, base)
    adapted = make_plan(competition.name, store_dir, start).experiment
    base, start = (dataclasses.replace(one, encoder=adapted.encoder, augment=adapted.augment) for one in (base, start))
    space = space_for(adapted, read_json(store_dir / "meta.json")["kind"])
    return Question(competition.name, str(data), experiment, base, start, store_dir, space)


def store_of(competition: Competition, experiment: Experiment) -> Path:
    """Return the store that an experiment is trained on, made where it is missing."""
    return find_store(competition, experiment.features) or preprocess(competition, experiment.features)


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


@dataclass(frozen=True)
class TrialPlan(Plan):
    """A plan whose run lies with its study, since its weights and logits are not kept."""

    trials_dir: Path

    @property
    def directory(self) -> Path:
        """The trial's folder."""
        return self.trials_dir / self.digest[:16]


class Objective:
    """Train a trial's experiment and return its validation accuracy, larger is better.

    workers: how many share this machine's processors. A loss that is not finite, settings that a part refuses, and a
    model that the memory does not hold are results, of value 0: the search goes on and learns to stay away.
    """

    def __init__(self, question: Question, workers: int) -> None:
        self.question = question
        self.threads = max(1, usable_cpus() // workers)
        self.store = Store.open(question.store_dir)
        self.num_folds = len(self.store.folds(question.space.start.folds))

    def __call__(self, optuna_trial: optuna.Trial) -> float:
        """Run one trial; raises optuna.TrialPruned."""
        question, number = self.question, optuna_trial.number
        experiment = question.experiment_of(question.space.suggest(optuna_trial))
        if experiment.train.threads == "auto":
            experiment = override(experiment, {"train.threads": self.threads})
        command = command_of(question.data, question.experiment, experiment)
        note = f"trial {number} of {question.study_name}"
        optuna_trial.set_user_attr("command", command)
        parent = None if "base" in optuna_trial.user_attrs else question.start
        started, last = time.monotonic(), -1

        def report(fold: int, step: int, metric: float) -> None:
            nonlocal last
            at = REPORTS * fold + REPORTS * step // plan.experiment.train.steps
            if at > last:
                last = at
                optuna_trial.report(metric, at)
                is_end = at >= REPORTS * self.num_folds
                if parent and not is_end and optuna_trial.should_prune():
                    raise optuna.TrialPruned(f"at {metric:.4f} after {step} steps of fold {fold + 1}")

        def ended(status: str, why: str) -> None:
            write_row(plan, {"status": status, "note": f"{note}: {why}", "seconds": time.monotonic() - started}, parent,
                      command, "tune")
            shutil.rmtree(plan.directory, ignore_errors=True)
            optuna_trial.set_user_attr("note", why)
            print(f"trial {number}: {status}, {why}", flush=True)

        try:
            made = make_plan(question.competition, question.store_dir, experiment)
        except SettingError as error:  # parts that do not go together; without a digest there is no row
            optuna_trial.set_user_attr("note", str(error))
            print(f"trial {number}: failed, {error}", flush=True)
            return 0.0
        plan = TrialPlan(**vars(made), trials_dir=question.directory / "trials")
        try:
            result = run(plan, self.store, report)
        except optuna.TrialPruned as pruned:
            ended("pruned", str(pruned))
            raise
        except (DivergedError, SettingError, torch.OutOfMemoryError) as error:
            ended("failed", str(error).partition("\n")[0])
            return 0.0
        if not ledger.contains(plan.digest, result["finished"]):
            write_row(plan, {**result, "note": note}, parent, command, "tune")
        for name in HEAVY:
            for path in plan.directory.glob(f"fold_*/{name}"):
                path.unlink()
        print(f"trial {number}: {result['valid']:.4f}, {result['seconds']:.0f} s", flush=True)
        return result["valid"]
