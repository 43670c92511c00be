"""A study shared by processes and machines: where it lies, who may run the next trial, what becomes of the dead.

In: a storage's URL and a number of trials. Out: exactly that many finished trials, whatever is killed meanwhile.

A trial that dies is entered again with the same parameters; it and those entered for it are one slot, numbered as the
first. A worker asks for a trial while fewer than N run or are finished, then counts: it goes on only where fewer than N
slots of lower number are taken, and withdraws otherwise. A storage numbers trials in the order in which they come to
be, so the highest slot admitted saw all the others: N is never passed. A worker holds a lock file that the kernel frees
when it dies, which tells its trials to be dead on this machine, at once and on any storage; those of other machines go
by Optuna's heartbeat, which a journal file does not have.
"""

import contextlib
import fcntl
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from src.base.file_system import flock
from src.base.files import lock
from src.base.machine import is_alive
from src.search.storage import open_storage

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
LIVE = (*FINISHED, TrialState.RUNNING, TrialState.WAITING)
MAX_DEATHS = 5  # a trial that killed its workers this often is left; another takes its slot
NAMELESS_S = 10.0  # a running trial that has no name on it by then lost its worker before it got one
POLL_S = 0.5

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class WithdrawnError(Exception):
    """This trial is not to be run: its slot is taken."""


@dataclass(frozen=True)
class StudySpec:
    """One study and how to get at it.

    url: sqlite:///FILE, any other RDB, or journal:FILE. directory: on this machine, for the workers' lock files.
    num_trials: of finished trials in all. heartbeat_s: whole seconds between signs of life in an RDB. lost: names of
    machines whose workers are known to be gone.
    """

    name: str
    url: str
    directory: Path
    num_trials: int
    seed: int = 0
    heartbeat_s: int = 60
    lost: tuple[str, ...] = ()


class SeededTPE(optuna.samplers.BaseSampler):
    """TPE (Bergstra et al., 2011) whose random numbers come from (seed, trial number).

    Whatever the number of workers, machines and restarts, no two trials draw alike, and a single worker draws the same
    search again. Parameters that are only drawn beside some part are modelled in groups of their own.
    """

    def __init__(self, seed: int, worker: dict[str, str] | None = None) -> None:
        self.seed, self.worker = seed, worker
        self.inner = optuna.samplers.TPESampler(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Begin the trial's own random numbers, and sign it: nothing comes earlier in a trial's life than this."""
        if self.worker:
            study._storage.set_trial_user_attr(trial._trial_id, "worker", self.worker)
        seed = int(np.random.SeedSequence([self.seed, trial.number]).generate_state(1)[0])
        self.inner = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See optuna.samplers.TPESampler."""
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial,
                        search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """See optuna.samplers.TPESampler."""
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        """See optuna.samplers.TPESampler."""
        return self.inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """See optuna.samplers.TPESampler."""
        self.inner.after_trial(study, trial, state, values)


def open_study(spec: StudySpec, worker: dict[str, str] | None = None) -> Study:
    """Return the study of `spec`, made where it is missing. Raises what `open_storage` raises."""
    with lock(spec.directory / ".setup.lock"):  # two that make the tables at once would trip over one another
        return optuna.create_study(
            storage=open_storage(spec.url, spec.heartbeat_s), study_name=spec.name, direction="maximize",
            load_if_exists=True, sampler=SeededTPE(spec.seed, worker),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3))


def enqueue_first(study: Study, params: dict[str, Any], spec: StudySpec) -> None:
    """Enter the trial that everything is compared with, unless it stands there."""
    with lock(spec.directory / ".setup.lock"):
        if not any("base" in trial.user_attrs for trial in study.get_trials(deepcopy=False)):
            study.enqueue_trial(params, user_attrs={"base": True})


def num_finished(study: Study) -> int:
    """Return how many trials are complete or pruned."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def slot(trial: FrozenTrial) -> int:
    """Return what a trial shares with those that were entered again for it: the first one's number, -1 for the base."""
    return -1 if "base" in trial.user_attrs else trial.user_attrs.get("retry_of", trial.number)


def recover(study: Study, spec: StudySpec) -> list[int]:
    """Fail the trials whose workers are dead, enter them again, and return the numbers of those that died."""
    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_dead(trial, spec):
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another worker saw it too
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    owed = _owed(study.get_trials(deepcopy=False))
    for dead in owed.values():
        attrs = {key: value for key, value in dead.user_attrs.items() if key not in ("worker", "interrupted")}
        study.add_trial(optuna.create_trial(
            state=TrialState.WAITING, params=dead.params, distributions=dead.distributions,
            system_attrs=dead.system_attrs, user_attrs={**attrs, "retry_of": attrs.get("retry_of", dead.number)}))
    return [dead.number for dead in owed.values()]


def _is_dead(trial: FrozenTrial, spec: StudySpec) -> bool:
    worker = trial.user_attrs.get("worker")
    if worker is None:
        return (datetime.now() - trial.datetime_start).total_seconds() > NAMELESS_S
    if worker["host"] != socket.gethostname():
        return worker["host"] in spec.lost
    return not _is_held(Path(worker["lock"]))


def _is_held(path: Path) -> bool:
    """Return whether a live process holds a worker's lock file; without locks, whether one of its number lives."""
    try:
        with open(path, "rb") as file:
            return not flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB, path) and is_alive(int(path.name.partition("-")[0]))
    except FileNotFoundError:
        return False  # the worker ended, or its folder was removed
    except BlockingIOError:
        return True


def _owed(trials: list[FrozenTrial]) -> dict[int, FrozenTrial]:
    """Return, for each slot whose trials all died, the last of them."""
    died: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        if trial.state == TrialState.FAIL and "withdrawn" not in trial.user_attrs:
            died.setdefault(slot(trial), []).append(trial)
    live = {slot(trial) for trial in trials if trial.state in LIVE}
    return {key: dead[-1] for key, dead in died.items()
            if key not in live and sum("interrupted" not in trial.user_attrs for trial in dead) < MAX_DEATHS}


def admit(optuna_trial: optuna.Trial, num_trials: int) -> None:
    """Raise WithdrawnError unless the trial's slot is its own and among the first `num_trials`."""
    trials = optuna_trial.study.get_trials(deepcopy=False)
    own = slot(trials[optuna_trial.number])
    taken = {slot(trial) for trial in trials if trial.state in LIVE} | set(_owed(trials))
    is_twice = any(slot(trial) == own and trial.state in LIVE for trial in trials[: optuna_trial.number])
    reason = "entered twice" if is_twice else "no slot left" if sum(s < own for s in taken) >= num_trials else ""
    if reason:
        optuna_trial.set_user_attr("withdrawn", reason)
        raise WithdrawnError(reason)


@contextlib.contextmanager
def signature(directory: Path) -> Iterator[dict[str, str]]:
    """Hold a lock file for as long as this worker lives, and return the name by which its trials are known."""
    path = directory / f"{os.getpid()}-{time.time_ns()}.lock"
    with contextlib.ExitStack() as stack:
        with lock(directory / ".setup.lock"):
            for other in directory.glob("*.lock"):
                if other.name[0] != "." and not _is_held(other):
                    other.unlink()
            file = stack.enter_context(open(path, "w"))
            flock(file, fcntl.LOCK_EX, path)
        stack.callback(path.unlink, missing_ok=True)
        yield {"host": socket.gethostname(), "lock": str(path.absolute())}


def work(spec: StudySpec, objective: Callable[[optuna.Trial], float], go_on: Callable[[], bool] = lambda: True) -> None:
    """Run trials of a study until `spec.num_trials` are finished in all, or until `go_on` says no.

    objective: returns a trial's value or raises optuna.TrialPruned. Any other error fails the trial and is raised; the
    trial is entered again when the search goes on.
    """
    with signature(spec.directory / "workers") as worker:
        study = open_study(spec, worker)
        waited = 0.0
        while go_on():
            for number in recover(study, spec):
                print(f"trial {number}: its worker is dead; entered again", flush=True)
            trials = study.get_trials(deepcopy=False)
            if sum(trial.state in FINISHED for trial in trials) >= spec.num_trials:
                return
            if sum(trial.state in (*FINISHED, TrialState.RUNNING) for trial in trials) < spec.num_trials:
                _run_one(study, objective, spec.num_trials)
                waited = 0.0
                continue
            if waited == 60:
                running = (trial for trial in trials if trial.state == TrialState.RUNNING)
                hosts = {trial.user_attrs.get("worker", {}).get("host", "?") for trial in running}
                print(f"every slot is taken; waiting for trials on {', '.join(sorted(hosts))}. Where such a machine is "
                      "gone for good, interrupt and add --lost NAME", flush=True)
            time.sleep(POLL_S)
            waited += POLL_S


def _run_one(study: Study, objective: Callable[[optuna.Trial], float], num_trials: int) -> None:
    """Claim and run one trial."""
    raised, numbers = [], []

    def claimed(optuna_trial: optuna.Trial) -> float:
        numbers.append(optuna_trial.number)
        try:
            admit(optuna_trial, num_trials)
            return objective(optuna_trial)
        except (optuna.TrialPruned, WithdrawnError, optuna.exceptions.UpdateFinishedTrialError):
            raise
        except BaseException as error:
            raised.append(error)
            if isinstance(error, KeyboardInterrupt):
                optuna_trial.set_user_attr("interrupted", True)
            raise

    try:
        study.optimize(claimed, n_trials=1, catch=(WithdrawnError,))
    except Exception:  # Optuna says it in several ways
        if raised or not numbers or study.get_trials(deepcopy=False)[numbers[0]].state != TrialState.FAIL:
            raise
        print(f"trial {numbers[0]}: taken for dead while it ran; its result does not count", flush=True)
