"""What a search asks, and one trial of it: the experiment that was drawn, trained as any other, pruned, recorded.

In: a competition, an experiment, and how long a trial trains. Out: a trial's validation accuracy, a ledger row for it,
and in data/studies/<competition>/<experiment>-<digest8>/trials/ its settings, log and result, without its weights. A
trial that was stopped or killed leaves its last checkpoint there and goes on from it.
"""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import torch

from src.base.errors import DivergedError, SettingError
from src.base.machine import usable_cpus
from src.ledger import file as ledger
from src.ledger.record import write_row
from src.runs.plan import Plan, make_plan
from src.search.question import Question, command_of
from src.settings.config import Experiment, override
from src.store.store import Store
from src.training.run import run

REPORTS = 10  # a fold's validations as a pruner sees them: one a tenth of its steps


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
        question = self.question
        experiment = question.experiment_of(question.space.suggest(optuna_trial))
        if experiment.train.threads == "auto":
            experiment = override(experiment, {"train.threads": self.threads})
        command = command_of(question.data, question.experiment, experiment)
        optuna_trial.set_user_attr("command", command)
        try:
            made = make_plan(question.competition, question.store_dir, experiment)
        except SettingError as error:  # parts that do not go together; without a digest there is no row
            optuna_trial.set_user_attr("note", str(error))
            print(f"trial {optuna_trial.number}: failed, {error}", flush=True)
            return 0.0
        parent = None if "base" in optuna_trial.user_attrs else question.start
        trial = Trial(optuna_trial, TrialPlan(**vars(made), trials_dir=question.directory / "trials"), parent, command,
                      f"trial {optuna_trial.number} of {question.study_name}", self.num_folds)
        try:
            result = run(trial.plan, self.store, trial.report)
        except optuna.TrialPruned as pruned:
            trial.abandon("pruned", str(pruned))
            raise
        except (DivergedError, SettingError, torch.OutOfMemoryError) as error:
            trial.abandon("failed", str(error).partition("\n")[0])
            return 0.0
        trial.complete(result)
        return result["valid"]


@dataclass
class Trial:
    """One trial under way: what it reports to Optuna, and what is kept of it when it ends.

    parent: what its row is compared with, None for the experiment itself, which is never pruned.
    """

    optuna_trial: optuna.Trial
    plan: TrialPlan
    parent: Experiment | None
    command: str
    note: str
    num_folds: int
    started: float = field(default_factory=time.monotonic)
    last_report: int = -1

    def report(self, fold: int, step: int, metric: float) -> None:
        """Report a validation to Optuna, ten a fold at most; raises optuna.TrialPruned where it falls behind."""
        at = REPORTS * fold + REPORTS * step // self.plan.experiment.train.steps
        if at <= self.last_report:
            return
        self.last_report = at
        self.optuna_trial.report(metric, at)
        is_end = at >= REPORTS * self.num_folds
        if self.parent and not is_end and self.optuna_trial.should_prune():
            raise optuna.TrialPruned(f"at {metric:.4f} after {step} steps of fold {fold + 1}")

    def abandon(self, status: str, why: str) -> None:
        """Record a trial that did not come to its end, and remove its files."""
        result = {"status": status, "note": f"{self.note}: {why}", "seconds": time.monotonic() - self.started}
        write_row(self.plan, result, self.parent, self.command, "tune")
        shutil.rmtree(self.plan.directory, ignore_errors=True)
        self.optuna_trial.set_user_attr("note", why)
        print(f"trial {self.optuna_trial.number}: {status}, {why}", flush=True)

    def complete(self, result: dict[str, Any]) -> None:
        """Record a trial that came to its end, and remove its weights and logits."""
        if not ledger.contains(self.plan.digest, result["finished"]):
            write_row(self.plan, {**result, "note": self.note}, self.parent, self.command, "tune")
        for fold in self.plan.run.folds:
            for path in fold.heavy_paths:
                path.unlink(missing_ok=True)
        print(f"trial {self.optuna_trial.number}: {result['valid']:.4f}, {result['seconds']:.0f} s", flush=True)
