"""What a search asks, and one trial of it: the experiment that was drawn, trained as any other, pruned, recorded.

In: a competition, an experiment, and how long a trial trains. Out: a trial's validation accuracy, a ledger row for it,
and in data/studies/<competition>/<experiment>-<digest8>/trials/ its settings, log and result, without its weights. A
trial that was stopped or killed leaves its last checkpoint there and goes on from it.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import optuna
import torch

from src.base.errors import DivergedError, SettingError
from src.base.machine import usable_cpus
from src.ledger import file as ledger
from src.ledger.record import write_row
from src.runs.plan import Plan, make_plan
from src.search.question import Question, command_of
from src.settings.config import override
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
        for fold in plan.run.folds:
            for path in fold.heavy_paths:
                path.unlink(missing_ok=True)
        print(f"trial {number}: {result['valid']:.4f}, {result['seconds']:.0f} s", flush=True)
        return result["valid"]
