"""Search an experiment's settings with Optuna: trials in, the best settings, pictures and ledger rows out.

Calls train for every trial, in as many processes as asked for, over a storage that any number of such commands may
share. `tune promote` (src.search.promote) then proves the best on fresh seeds and writes it as an experiment file.
"""

import argparse
import math
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from src.base.errors import RunError, SpeakerIDError
from src.settings import arguments
from src.settings.config import to_json

if TYPE_CHECKING:
    import optuna

    from src.search.question import Question
    from src.search.study import StudySpec

STOP_S = 5.0  # for workers that a Ctrl-C reached too to save and end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src tune`."""
    parser.add_argument("action", nargs="?", choices=("search", "promote"), default="search",
                        help="search (default), or promote: rerun the best on fresh seeds and write its file")
    arguments.add_arguments(
        parser, "data", set={"help": "change the start, such as optim.lr=3e-4; may be repeated"},
        experiment={"help": "where the search starts: a name or a promoted .json file (default: %(default)s)"})
    parser.add_argument("--storage", metavar="URL", help="sqlite:///FILE, postgresql://USER@HOST/NAME or journal:FILE; "
                        "shared by any number of machines (default: an SQLite file under data/studies)")
    parser.add_argument("--steps", type=_positive, metavar="N",
                        help="training steps of a trial, of a rerun for promote (default: the experiment's own)")
    parser.add_argument("--folds", type=_positive, metavar="K",
                        help="folds of a trial (default: 1), of a rerun for promote (default: the experiment's own)")
    search = parser.add_argument_group("search")
    search.add_argument("--trials", type=_positive, default=40, metavar="N",
                        help="finished trials of the study in all, those from before among them (default: %(default)s)")
    search.add_argument("--workers", type=_positive, default=1, metavar="K", help="processes (default: %(default)s)")
    search.add_argument("--timeout", type=float, metavar="S", help="begin no trial after S seconds")
    search.add_argument("--heartbeat", type=_positive, default=60, metavar="S",
                        help="seconds between a worker's signs of life in a database; after ten missed ones its trial "
                        "is run again (default: %(default)s)")
    search.add_argument("--seed", type=int, default=0, help="seed of what the search draws (default: %(default)s)")
    search.add_argument("--lost", action="append", default=[], metavar="HOST",
                        help="a machine that is gone for good: its trials under way are run again")
    promote = parser.add_argument_group("promote")
    promote.add_argument("--seeds", type=_positive, default=3, help="fresh seeds of each (default: %(default)s)")
    promote.add_argument("--out", metavar="FILE.json", type=Path, help="where to write the experiment")
    promote.add_argument("--study", default="", metavar="NAME", help="which one, where the storage holds several")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def main(options: argparse.Namespace) -> None:
    """Run `tune search` or `tune promote`."""
    if options.action == "promote":
        from src.search.promote import promote

        promote(options)
    else:
        _search(options)


def _search(options: argparse.Namespace) -> None:
    """Run trials until the study has as many finished ones as asked for, then say what was found."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # a line a trial, not a bar a fold
    started = time.monotonic()
    from src.search.question import ask, default_storage
    from src.search.storage import shown
    from src.search.study import StudySpec, enqueue_first, num_finished, open_study, recover

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
        codes = _run_workers(question, spec, deadline, options.workers)
    finished = num_finished(study)
    print(f"{finished} of {options.trials} trials finished, {finished - before} of them now, in "
          f"{time.monotonic() - started:.0f} s" + ("; the same command goes on" if finished < options.trials else ""))
    _conclude(study, question, url)
    if finished < options.trials and any(codes):
        raise RunError(f"tune: workers ended with exit codes {codes} (their messages stand above); the same command "
                       "goes on from here")


def _run_workers(question: "Question", spec: "StudySpec", deadline: float, num_workers: int) -> list[int]:
    """Run the search in this process, or in several that start afresh, and return their exit codes."""
    if num_workers == 1:
        _work(question, spec, deadline, 1)
        return [0]
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work_alone, args=(question, spec, deadline, num_workers), daemon=True)
               for _ in range(num_workers)]
    kept = signal.signal(signal.SIGTERM, _interrupt)
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        stop = time.monotonic() + STOP_S
        for worker in workers:
            worker.join(max(0.0, stop - time.monotonic()))
        for worker in workers:
            if worker.pid:
                worker.terminate()  # asks it once more: it saves, and its trial goes on next time
                worker.join()
        raise
    finally:
        signal.signal(signal.SIGTERM, kept)
    return [worker.exitcode or 0 for worker in workers]


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _work_alone(question: "Question", spec: "StudySpec", deadline: float, num_workers: int) -> None:
    """Be a worker in a process of its own."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _work(question, spec, deadline, num_workers)
    except SpeakerIDError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _work(question: "Question", spec: "StudySpec", deadline: float, num_workers: int) -> None:
    from src.search.study import work
    from src.search.trial import Objective

    parent = multiprocessing.parent_process()

    def go_on() -> bool:
        return time.monotonic() < deadline and (parent is None or parent.is_alive())

    work(spec, Objective(question, num_workers), go_on)


def _conclude(study: "optuna.Study", question: "Question", url: str) -> None:
    """Print the best trial beside the base's, write the pictures, and say how to look further."""
    from optuna.trial import TrialState

    from src.search.plots import plot
    from src.search.storage import is_journal, shown
    from src.search.study import slot

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
