"""Prove a study's best trial: it and the experiment itself on fresh seeds and all folds; its experiment file comes out.

In: a finished study. Out: ledger rows of the reruns, whether the difference lies outside their noise, and a .json that
`--experiment` takes.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.trial import TrialState

from src import experiments
from src.base.errors import RunError, SettingError
from src.base.files import read_json, write_json
from src.competition.open import open_competition
from src.ledger import file as ledger
from src.ledger.groups import effect, groups
from src.ledger.row import group as group_of
from src.runs.plan import Plan, make_plan
from src.search.question import command_of, default_storage, store_of, studies_dir
from src.search.space import space_for
from src.search.storage import open_storage, shown
from src.search.study import slot
from src.settings.arguments import resolve
from src.settings.config import Experiment, from_json, override, to_json
from src.train import train_and_record


def promote(options: argparse.Namespace) -> None:
    """Rerun the best trial and its base, say what holds, and write the best as an experiment file.

    Raises SettingError where no study or several fit and where nothing would be validated, RunError where the study has
    no complete trial.
    """
    competition = open_competition(options.data)
    study = _find_study(options, competition.name, experiments.get(options.experiment).name)
    trial = study.best_trial
    print(f"study {study.study_name}: trial {trial.number} is best, {trial.value:.4f} there")
    if slot(trial) == -1:
        print("nothing that was drawn is better than the experiment itself: there is nothing to promote")
        return
    base = resolve(options, from_json(study.user_attrs["base"]))
    asked = {"train.steps": options.steps, "folds": options.folds}
    base = override(base, {key: value for key, value in asked.items() if value})
    if base.folds == "all":
        raise SettingError(f"tune promote: '{base.name}' trains on every utterance (folds=all), so nothing tells "
                           "which is better; add --folds 5")
    if options.out and options.out.suffix != ".json":
        raise SettingError(f"--out {options.out}: an experiment file ends in .json")
    store_dir = store_of(competition, base)
    found = f"trial {trial.number} of study {study.study_name}, {trial.value:.4f} there"
    drawn = _experiment_of(study, trial, base, competition.name, store_dir)
    best = override(drawn, {"name": f"{base.name}_trial{trial.number}", "parent": base.name, "hypothesis": found})
    out = options.out or studies_dir(study.study_name) / f"{best.name}.json"
    write_json(out, to_json(best))
    digests: dict[str, set[str]] = {base.name: set(), best.name: set()}
    for seed in range(base.seed + 1, base.seed + 1 + options.seeds):  # the search knew base.seed alone
        for experiment, name in ((base, options.experiment), (best, str(out))):
            again = replace(experiment, seed=seed)
            command = command_of(str(options.data), name, again)
            plan = make_plan(competition.name, store_dir, again)
            digests[experiment.name].add(_train(plan, base if experiment is best else None, command))
    verdict = _compare(digests, group_of(make_plan(competition.name, store_dir, base).experiment))
    write_json(out, to_json(override(best, {"hypothesis": f"{found}; on {options.seeds} fresh seeds {verdict}"})))
    print(f"{best.name} {verdict}\nexperiment: {out} (bash run.sh --data {options.data} --experiment {out})")


def _train(plan: Plan, parent: Experiment | None, command: str) -> str:
    """Train and record a plan, unless that is done, and return its digest."""
    print(f"{plan.run_id}, seed {plan.experiment.seed}" + (" is there, skipped" if plan.is_done() else ""), flush=True)
    train_and_record(plan, parent=parent, command=command)
    return plan.digest


def _find_study(options: argparse.Namespace, competition: str, experiment: str) -> optuna.Study:
    """Return the one study of an experiment that the storage holds."""
    url = options.storage or default_storage(competition, experiment)
    storage, prefix = open_storage(url), f"{competition}/{experiment}-"
    names = [name for name in optuna.get_all_study_names(storage) if name.startswith(prefix) and options.study in name]
    if len(names) != 1:
        raise SettingError(f"tune promote: {shown(url)} holds " + (
            f"several studies: {', '.join(names)}; name one with --study" if names
            else f"no study {prefix}…; search first, or name its --storage"))
    study = optuna.load_study(study_name=names[0], storage=storage)
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise RunError(f"study {names[0]} has no complete trial yet; search on")
    return study


def _experiment_of(study: optuna.Study, trial: optuna.trial.FrozenTrial, base: Experiment, competition: str,
                   store_dir: Path) -> Experiment:
    """Return `base` changed as in a trial; raises SettingError where this version cannot read its parameters."""
    start = make_plan(competition, store_dir, from_json(study.user_attrs["start"])).experiment
    space = space_for(start, read_json(store_dir / "meta.json")["kind"])
    gone = set(trial.params) - {dimension.name for dimension in space.dimensions}
    if gone:
        raise SettingError(f"study {study.study_name} draws {', '.join(sorted(gone))}, which the search space of this "
                           "version does not know; search again")
    return space.apply(trial.params, base, make_plan(competition, store_dir, base).experiment.train.steps)


def _compare(digests: dict[str, set[str]], base_group: str) -> str:
    """Print mean and deviation of the base and of the best, in this order, and return how the best compares."""
    found = []
    for name, wanted in digests.items():
        rows = [{**row, "parent_group": base_group} for row in ledger.known()
                if row["digest"] in wanted and row["status"] == "ok" and row["stage"] != "tune"]
        found += groups(rows)
        last, num_seeds = found[-1], len(found[-1].rows)
        spread = f" ± {last.deviation('valid'):.4f}" if num_seeds > 1 else ""
        print(f"{name}: validation accuracy {last.mean('valid'):.4f}{spread} over {num_seeds} fresh seeds "
              f"({last.last['folds']} folds, {last.last['steps']} steps)")
    level = [replace(group, rows=tuple({**row, "steps": ""} for row in group.rows)) for group in found]  # may be "auto"
    difference, noise = effect(level[1], level)
    if math.isnan(noise):
        return f"is {difference:+.4f} from its base; one seed cannot tell, add --seeds 3"
    if abs(difference) <= noise:
        return f"is {difference:+.4f} from its base, within the noise ({noise:.4f}): no change"
    return f"{'beats' if difference > 0 else 'is worse than'} its base by {abs(difference):.4f} (noise {noise:.4f})"
