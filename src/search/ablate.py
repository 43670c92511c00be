"""A ladder of experiments, one technique a rung, at equal steps: what each is worth, and whether that is noise.

Calls train for every rung that is not done yet; each run is a ledger row, from which the closing table is made.
"""

import argparse
import shlex

from src import experiments
from src.base import distributed
from src.base.errors import DivergedError, RunError, SettingError, nearest
from src.competition.open import Competition, open_competition
from src.ledger import file as ledger
from src.ledger.table import table
from src.runs.plan import Plan, make_plan
from src.settings import arguments
from src.settings.config import Experiment, override
from src.store.ensure import ensure_store
from src.train import train_and_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src ablate`."""
    parser.add_argument("--ladder", required=True, metavar="NAME", help=", ".join(experiments.LADDERS))
    parser.add_argument("--steps", type=int, default=1000, help="steps of every rung (default: %(default)s)")
    parser.add_argument("--folds", type=int, default=1, help="folds of every rung (default: %(default)s, held out)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the first and the last rung (default: 3)")
    parser.add_argument("--rung-seeds", type=int, default=1, help="seeds of the rungs between (default: 1)")
    arguments.add_arguments(parser, "data", set={"help": "a setting of every rung"})


def main(options: argparse.Namespace) -> None:
    """Run a ladder's missing rungs and print its table."""
    competition = open_competition(options.data)
    rungs = find_ladder(options.ladder)
    lengths = {"train.steps": options.steps, "folds": options.folds}
    common = {**lengths, **arguments.changes_of(options)}
    if "seed" in common:
        raise SettingError("--set seed: a ladder runs seeds from 0 on; --seeds and --rung-seeds say how many")
    if min(options.steps, options.folds, options.seeds, options.rung_seeds) < 1:
        raise SettingError("--steps, --folds, --seeds and --rung-seeds must be at least 1")
    plans, failed = [], []
    for rung in rungs:
        ends = rung in (rungs[0], rungs[-1])
        for seed in range(options.seeds if ends else options.rung_seeds):
            experiment = arguments.resolve(options, experiments.get(rung), {**lengths, "seed": seed})
            plans.append((_plan(competition, experiment), _parent(experiment, common), seed))
    for done, (plan, parent, seed) in enumerate(plans, start=1):
        print(f"[{done}/{len(plans)}] {plan.experiment.name}, seed {seed}: {plan.run_id}"
              + (" is there, skipped" if plan.is_done() else ""), flush=True)
        try:
            train_and_record(plan, parent=parent, stage="ablate", command=_command(options, plan, common, seed))
        except DivergedError as error:
            failed.append(f"{plan.experiment.name}, seed {seed}: {error}")
            print(f"  {error}", flush=True)
    digests = {plan.digest for plan, _, _ in plans}
    print(table([row for row in ledger.known() if row["digest"] in digests], format="text"))
    if failed:
        raise RunError("\n  ".join([f"{len(failed)} of {len(plans)} runs diverged:", *failed]))


def find_ladder(name: str) -> tuple[str, ...]:
    """Return the experiments of a ladder, bottom first."""
    if name not in experiments.LADDERS:
        raise SettingError(f"unknown ladder '{name}'{nearest(name, experiments.LADDERS)}")
    return experiments.LADDERS[name]


def _plan(competition: Competition, experiment: Experiment) -> Plan:
    return make_plan(competition.name, ensure_store(competition, experiment.features), experiment)


def _parent(experiment: Experiment, common: dict) -> Experiment | None:
    if experiment.parent not in experiments.names():
        return None
    return override(experiments.get(experiment.parent), common)


def _command(options: argparse.Namespace, plan: Plan, common: dict, seed: int) -> str:
    words = [*distributed.command("train"), "--data", str(options.data), "--experiment", plan.experiment.name]
    for key, value in {**common, "seed": seed}.items():
        words += ["--set", f"{key}={value}"]
    return shlex.join(words)
