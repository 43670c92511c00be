"""What pretrain, ctc and bert_nli share: trained once under the run's lock, recorded once; and how the first two plan.

A Task trains an experiment's encoder for something else than telling speakers apart. It reads some of the experiment's
settings, has values of its own where the experiment's are for speakers, and gives its run a digest, a result and a row.
"""

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src.base.errors import SettingError
from src.base.files import digest, lock, read_json
from src.base.text import timestamp
from src.ledger import file as ledger
from src.ledger.record import do_once
from src.ledger.row import make_row
from src.runs.folder import Run
from src.runs.plan import Plan
from src.settings import arguments
from src.settings.auto import DataSummary, adapt
from src.settings.config import Experiment, override
from src.settings.parts import essential
from src.settings.weights import hash_weights


@dataclass(frozen=True)
class Task:
    """One thing that an experiment's encoder is trained for.

    name: of the command; its runs are called <name>-<experiment>. title: in messages. version: to be raised when the
    same settings would give other weights. used: the settings of an experiment that it reads, by dotted key or section.
    start: what stands in the place of the experiment's values, which are for telling speakers apart. digested: the
    sections of the settings that its digest holds. num_logs: rows of its log where train.valid_every is "auto". stage,
    empty: of its ledger rows, the stage and the columns that say nothing of it.
    """

    name: str
    title: str
    version: int
    metric: str
    used: tuple[str, ...]
    start: Mapping[str, Any]
    digested: tuple[str, ...]
    num_logs: int
    stage: str
    empty: tuple[str, ...]

    def check(self, changes: Mapping[str, Any]) -> None:
        """Raise SettingError for a changed setting that the task does not use."""
        for key in changes:
            if not any(key == used or key.startswith(f"{used}.") for used in self.used):
                raise SettingError(f"{key}: {self.title} does not use this setting; it uses {', '.join(self.used)}")

    def complete(self, experiment: Experiment, store_dir: Path) -> Experiment:
        """Return the experiment with no "auto" left, under the name of the task's run."""
        summary = DataSummary.from_json(read_json(store_dir / "meta.json")["summary"])
        complete = replace(adapt(experiment, summary), name=f"{self.name}-{experiment.name}")
        if experiment.train.valid_every == "auto" and complete.train.valid_every:
            complete = override(complete, {"train.valid_every": max(1, complete.train.steps // self.num_logs)})
        return complete

    def digest_of(self, complete: Experiment, store_dir: Path, **content: Any) -> str:
        """Return the digest of a complete experiment on a store; content: what else decides the result."""
        settings = hash_weights(essential(complete))
        return digest({"stage": self.name, "version": self.version,
                       "store": read_json(store_dir / "meta.json")["digest"],
                       "settings": {key: settings.get(key) for key in self.digested}, **content})

    def result_of(self, plan: Plan, store_digest: str, **figures: Any) -> dict[str, Any]:
        """Return what a finished run says of itself; figures: such as train, valid, params and seconds."""
        experiment = plan.experiment
        return {"run_id": plan.run_id, "digest": plan.digest, "store": store_digest, "metric": self.metric,
                "steps": experiment.train.steps, "folds": experiment.folds, "seeds": experiment.seed,
                "device": experiment.train.device, "finished": timestamp(), **figures}

    def train(self, plan: Plan, named: Experiment, options: argparse.Namespace, work: Callable[[], dict[str, Any]],
              words: Sequence[str] = (), amend: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> dict[str, Any]:
        """Return the plan's result, by `work` unless it is done, with its row in the ledger once.

        named: the experiment as the command line names it, with which the row compares. words: arguments of the command
        beside --data, --experiment, --steps and --set. amend: returns the row with what only this task knows.
        """
        print(f"{self.name}: {plan.run_id}" + (" is there, skipped" if plan.is_done() else ""), flush=True)
        command = ["bash", "run.sh", self.name, "--data", str(options.data), "--experiment", options.experiment,
                   "--steps", str(options.steps), *words,
                   *[word for assignment in options.set for word in ("--set", assignment)]]
        parent = None
        if set(arguments.changes_of(options)) - {"seed"}:
            parent = self.complete(override(named, {**self.start, "train.steps": options.steps}), plan.store_dir)

        def write(result: dict[str, Any]) -> None:
            row = make_row(plan.experiment, competition=plan.competition, run_id=plan.run_id, digest=plan.digest,
                           result={"metric": self.metric, **result}, parent=parent, stage=self.stage,
                           command=shlex.join(command))
            ledger.record(amend(row | dict.fromkeys(self.empty, "")))

        return do_once(plan, work, write, plan.is_done())


def train_once(run: Run, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a run's result, by `work` unless it is there. Two processes never mix: the second waits."""
    with lock(run.lock_path, f"{run.run_id}: another process is training it; waiting"):
        if not run.is_done():
            run.whole.finish(work())
    return run.result
