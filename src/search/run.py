"""Run trials until a study has as many as asked for, then say what was found."""

import argparse
import math
import time
from pathlib import Path

import optuna
from optuna.trial import TrialState

from src.base.errors import RunError
from src.search.plots import plot
from src.search.question import Question, ask, default_storage
from src.search.storage import is_journal, shown
from src.search.study import StudySpec, enqueue_first, num_finished, open_study, recover, slot
from src.settings.config import to_json


def search(options: argparse.Namespace) -> None:
    """Run trials until the study has as many finished ones as asked for, then say what was found."""
    started = time.monotonic()
    question = ask(options)
    url = options.storage or default_storage(question.competition, question.base.name)
    spec = StudySpec(question.study_name, url, question.directory, options.trials, options.seed, options.heartbeat,
                     tuple(options.lost))
    study = open_study(spec)
    if "base" not in study.user_attrs:  # what `tune promote` asks
        study.set_user_attr("start", to_json(question.start))
        study.set_user_attr("base", to_json(question.base))
    enqueue_first(study, question.space.params_of(question.space.start), spec)
    before = num_finished(study)
    print(f"study {spec.name} in {shown(url)}: {before} of {options.trials} trials finished")
    for note in question.space.notes:
        print(f"  {note}")
    for number in recover(study, spec):
        print(f"trial {number}: its worker is dead; entered again")
    deadline = started + options.timeout if options.timeout else math.inf
    codes = [0]
    if before < options.trials:
        from src.search.workers import run_workers

        codes = run_workers(question, spec, deadline, options.workers)
    finished = num_finished(study)
    print(f"{finished} of {options.trials} trials finished, {finished - before} of them now, in "
          f"{time.monotonic() - started:.0f} s" + ("; the same command goes on" if finished < options.trials else ""))
    _conclude(study, question, url)
    if finished < options.trials and any(codes):
        raise RunError(f"tune: workers ended with exit codes {codes} (their messages stand above); the same command "
                       "goes on from here")


def _conclude(study: optuna.Study, question: Question, url: str) -> None:
    """Print the best trial beside the base's, write the pictures, and say how to look further."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return
    best = study.best_trial  # of equal ones the first, so the experiment itself before all others
    base = next((trial for trial in complete if slot(trial) == -1), None)
    print(f"\nbest: trial {best.number}, validation accuracy {best.value:.4f}"
          + (f"; the experiment itself: {base.value:.4f}" if base else ""))
    at_base = base.params if base else {}
    for name, value in best.params.items():
        if name not in at_base or at_base[name] != value:
            print(f"  {name} = {value:.4g}" if isinstance(value, float) else f"  {name} = {value}")
    print(f"again: {best.user_attrs['command']}")
    print("one seed, chosen among many: `tune promote` with the same --data, --experiment and --storage tells whether "
          "it holds")
    for path in plot(study, question.directory):
        print(f"picture: {path}")
    place = shown(url) if not is_journal(url) else str(Path(shown(url)).absolute())
    print(f"all trials: .venv/bin/python -m pip install optuna-dashboard && .venv/bin/optuna-dashboard {place}")
