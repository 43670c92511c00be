"""A study under fire: workers killed, interrupted and raced, on SQLite, a journal file and PostgreSQL."""

import contextlib
import errno
import fcntl
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from src.base.errors import RunError, SettingError
from src.search.storage import open_storage, shown
from src.search.study import (
    FINISHED,
    MAX_DEATHS,
    StudySpec,
    WithdrawnError,
    admit,
    enqueue_first,
    num_finished,
    open_study,
    recover,
    signature,
    work,
)

pytestmark = [pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
              pytest.mark.filterwarnings("ignore:Heartbeat of storage")]
WORKER = """
import sys, time
from pathlib import Path
from src.search.study import StudySpec, work
url, directory, num_trials, pause = sys.argv[1:]
def objective(optuna_trial):
    with open(Path(directory) / "begun", "a") as file:
        file.write(f"{optuna_trial.number}\\n")
    value = optuna_trial.suggest_float("x", 0, 1)
    time.sleep(float(pause))
    return value
work(StudySpec("study", url, Path(directory), int(num_trials)), objective)
"""


def spec_of(tmp_path, url=None, num_trials=12, **more):
    return StudySpec("study", url or f"sqlite:///{tmp_path}/study.db", tmp_path / "study", num_trials, **more)


def draw(optuna_trial):
    return optuna_trial.suggest_float("x", 0, 1)


def start_workers(spec, count, pause):
    command = [sys.executable, "-c", WORKER, spec.url, str(spec.directory), str(spec.num_trials), str(pause)]
    first = subprocess.Popen(command, process_group=0)
    return [first, *(subprocess.Popen(command, process_group=first.pid) for _ in range(count - 1))]


def until(condition, timeout_s=60):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def states(study):
    return [trial.state for trial in study.get_trials(deepcopy=False)]


def running(study):
    return [trial for trial in study.trials if trial.state == TrialState.RUNNING]


def killed_in_the_middle(spec):
    """Run two workers, SIGKILL their group in the middle, run two again, and return the study."""
    study = open_study(spec)
    enqueue_first(study, {"x": 0.5}, spec)
    workers = start_workers(spec, 2, 0.4)
    until(lambda: num_finished(study) >= 2 and [bool(trial.params) for trial in running(study)] == [True, True])
    os.killpg(workers[0].pid, signal.SIGKILL)
    for worker in workers:
        assert worker.wait() == -signal.SIGKILL
    assert num_finished(study) < spec.num_trials
    under_way = [trial for trial in running(study) if trial.params]
    assert under_way
    for worker in start_workers(spec, 2, 0.05):
        assert worker.wait(120) == 0
    finished = [trial for trial in study.trials if trial.state in FINISHED]
    assert len(finished) == spec.num_trials
    assert not {TrialState.RUNNING, TrialState.WAITING} & set(states(study))
    drawn = [trial.params["x"] for trial in finished]
    assert len(set(drawn)) == len(drawn)  # none repeated
    assert {trial.params["x"] for trial in under_way} <= set(drawn)  # none lost
    assert 0.5 in drawn
    return study


@pytest.mark.parametrize("url", ["sqlite:///{}/study.db", "journal:{}/study.log"])
def test_killed_search_ends_with_exactly_n_trials(tmp_path, url):
    spec = spec_of(tmp_path, url.format(tmp_path))
    study = killed_in_the_middle(spec)
    begun = (spec.directory / "begun").read_text().split()
    assert len(begun) == len(set(begun))  # a trial entered again is a new number: none was begun by two workers
    work(spec, draw)  # what is finished is not done again
    assert num_finished(study) == spec.num_trials


def test_waiting_trials_are_taken_once(tmp_path):
    spec = spec_of(tmp_path, num_trials=60)
    study = open_study(spec)
    for i in range(60):
        study.enqueue_trial({"x": i / 60})
    for worker in start_workers(spec, 3, 0):
        assert worker.wait(60) == 0
    begun = (spec.directory / "begun").read_text().split()
    assert sorted(map(int, begun)) == list(range(60))


@pytest.mark.parametrize("url", ["sqlite:///{}/study.db", "journal:{}/study.log"])
def test_slots_are_kept_for_the_dead(tmp_path, url):
    """Of two slots one is finished and one's worker dies: a third trial that was asked meanwhile must not take it."""
    spec = spec_of(tmp_path, url.format(tmp_path), num_trials=2)
    study = open_study(spec)
    study.tell(study.ask(), 0.5)
    dying, late = study.ask(), study.ask()
    drawn = draw(dying)
    dying.set_user_attr("worker", {"host": socket.gethostname(), "lock": str(tmp_path / "gone.lock")})
    late.set_user_attr("worker", {"host": "elsewhere", "lock": ""})
    assert recover(study, spec) == [dying.number]
    again = study.ask()
    with pytest.raises(WithdrawnError, match="no slot"):
        admit(late, 2)
    admit(again, 2)
    assert draw(again) == drawn
    twice = study.ask()
    twice.set_user_attr("retry_of", dying.number)
    with pytest.raises(WithdrawnError, match="twice"):  # two machines that enter one trial again at the same moment
        admit(twice, 3)


def test_trials_of_other_machines_are_left_alone_unless_lost(tmp_path):
    spec = spec_of(tmp_path, f"journal:{tmp_path}/study.log")
    study = open_study(spec)
    trial = study.ask()
    trial.set_user_attr("worker", {"host": "elsewhere", "lock": "/nowhere"})
    assert recover(study, spec) == []
    assert recover(study, spec_of(tmp_path, spec.url, lost=("elsewhere",))) == [trial.number]
    assert states(study) == [TrialState.FAIL, TrialState.WAITING]


def test_interrupted_trial_is_run_again(tmp_path):
    spec, drawn = spec_of(tmp_path, num_trials=3), []

    def interrupted(optuna_trial):
        drawn.append(draw(optuna_trial))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return drawn[-1]

    with pytest.raises(KeyboardInterrupt):
        work(spec, interrupted)
    work(spec, draw)
    finished = {trial.params["x"] for trial in open_study(spec).trials if trial.state == TrialState.COMPLETE}
    assert len(finished) == 3
    assert set(drawn) <= finished


def test_deadly_trial_gives_its_slot_away_in_the_end(tmp_path):
    spec, num_deaths, first = spec_of(tmp_path, num_trials=2), 0, []

    def deadly(optuna_trial):
        value = draw(optuna_trial)
        first.append(value)
        if value == first[0]:
            raise RuntimeError("no memory")
        return value

    while num_finished(open_study(spec)) < 2 and num_deaths < 20:
        try:
            work(spec, deadly)
        except RuntimeError:
            num_deaths += 1
    assert num_deaths == MAX_DEATHS
    assert num_finished(open_study(spec)) == 2


def test_result_of_a_trial_taken_for_dead_does_not_count(tmp_path, capsys):
    spec, seen = spec_of(tmp_path, num_trials=3), []

    def slow(optuna_trial):
        value = draw(optuna_trial)
        if not seen:  # another machine fails it while it runs
            seen.append(value)
            open_study(spec).tell(optuna_trial.number, state=TrialState.FAIL)
        return value

    work(spec, slow)
    assert "taken for dead" in capsys.readouterr().out
    finished = [trial for trial in open_study(spec).trials if trial.state in FINISHED]
    assert len(finished) == 3
    assert seen[0] in [trial.params["x"] for trial in finished]


def test_draws_depend_on_the_seed_and_the_trial_alone(tmp_path):
    def drawn(name, restart):
        spec = spec_of(tmp_path / name, f"journal:{tmp_path}/{name}.log", num_trials=4)
        if restart:
            work(spec_of(tmp_path / name, spec.url, num_trials=2), draw)
        work(spec, draw)
        return [trial.params["x"] for trial in open_study(spec).trials]

    assert drawn("a", False) == drawn("b", True)
    assert len(set(drawn("a", False))) == 4


def test_torn_journal_is_mended(tmp_path):
    spec = spec_of(tmp_path, f"journal:{tmp_path}/study.log", num_trials=2)
    work(spec, draw)
    with open(tmp_path / "study.log", "a") as file:
        file.write('{"op_code":4,"worker')
    work(spec_of(tmp_path, spec.url, num_trials=3), draw)
    assert num_finished(open_study(spec)) == 3


def test_storage_errors_name_cause_and_remedy(tmp_path, monkeypatch):
    assert "secret" not in shown("postgresql://me:secret@host/db")
    with pytest.raises(SettingError, match="neither"):
        open_storage("nonsense")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingError, match="psycopg") as error:
        open_storage("postgresql://me:secret@host/db")
    assert "secret" not in str(error.value)


@pytest.mark.campaign
def test_silent_machine_is_found_by_its_heartbeat(tmp_path):
    spec = spec_of(tmp_path, num_trials=1, heartbeat_s=1)
    study = open_study(spec)
    trial = study.ask()
    trial.set_user_attr("worker", {"host": "elsewhere", "lock": "/nowhere"})
    study._storage.record_heartbeat(trial._trial_id)
    work(spec, draw)  # waits for ten missed beats
    assert states(study) == [TrialState.FAIL, TrialState.COMPLETE]


@pytest.fixture
def postgres_url():
    """A PostgreSQL server of its own on loopback, run by another user where this one is root."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'psycopg[binary]'")
    folders = [Path(shutil.which("pg_ctl") or "/").resolve().parent, *Path("/usr/lib/postgresql").glob("*/bin")]
    binaries = next((path for path in folders if (path / "initdb").exists() and (path / "pg_ctl").exists()), None)
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt install postgresql")
    user = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        found = [name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()}]
        if not found:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
        user = {"user": found[0], "extra_groups": []}
    directory = Path(tempfile.mkdtemp(prefix="speaker-id-postgres-"))  # tmp_path is closed to other users
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        if user:
            shutil.chown(directory, user["user"])
        options = f"-h 127.0.0.1 -p {port} -k {directory} -F"
        for command in (["initdb", "-D", "data", "-A", "trust", "-U", "me"],
                        ["pg_ctl", "-D", "data", "-l", "log", "-w", "-o", options, "start"]):
            subprocess.run([binaries / command[0], *command[1:]], cwd=directory, check=True, stdout=subprocess.DEVNULL,
                           timeout=60, **user)
        yield f"postgresql://me@127.0.0.1:{port}/postgres"
        subprocess.run([binaries / "pg_ctl", "-D", "data", "-m", "immediate", "stop"], cwd=directory, check=True,
                       stdout=subprocess.DEVNULL, timeout=60, **user)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.campaign
def test_killed_search_on_postgresql_ends_with_exactly_n_trials(tmp_path, postgres_url):
    killed_in_the_middle(spec_of(tmp_path, postgres_url, num_trials=24))
    with pytest.raises(RunError, match="is the server up"):
        open_storage(postgres_url.replace("127.0.0.1", "127.0.0.2"))


@pytest.mark.campaign
@pytest.mark.parametrize("url", ["sqlite:///{}/study.db", "journal:{}/study.log"])
def test_search_killed_again_and_again_loses_nothing(tmp_path, url):
    spec = spec_of(tmp_path, url.format(tmp_path), num_trials=60)
    study = open_study(spec)
    for wait_s in (2.0, 2.6, 3.3, 4.1):
        workers = start_workers(spec, 3, 0.05)
        time.sleep(wait_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(workers[0].pid, signal.SIGKILL)
        for worker in workers:
            worker.wait()
    for worker in start_workers(spec, 3, 0.02):
        assert worker.wait(120) == 0
    drawn = [trial.params["x"] for trial in study.trials if trial.state in FINISHED]
    assert len(drawn) == len(set(drawn)) == 60
    optuna.delete_study(study_name="study", storage=study._storage)


@pytest.mark.parametrize(("revision", "remedy"), [
    ("v2.6.0.a", "made by Optuna 2.10.1; copy it and bring the tables up to date, "
                 "`.venv/bin/optuna storage upgrade --storage {url}`, or name another file"),
    ("v99.0.0.a", f"made by Optuna 2.10.1, newer than the {optuna.__version__} that is installed; name another file")])
def test_a_study_of_another_optuna_is_refused_in_one_line(tmp_path, revision, remedy):
    url = f"sqlite:///{tmp_path}/old.db"
    with contextlib.closing(sqlite3.connect(tmp_path / "old.db")) as database, database:
        database.execute("CREATE TABLE version_info (version_info_id INTEGER NOT NULL, schema_version INTEGER, "
                         "library_version VARCHAR(256), PRIMARY KEY (version_info_id), CHECK (version_info_id = 1))")
        database.execute("INSERT INTO version_info VALUES (1, 12, '2.10.1')")
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
                         "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))")
        database.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    with pytest.raises(RunError) as caught:
        open_storage(url)
    assert str(caught.value) == f"--storage {url}: {remedy.format(url=url)}"


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_without_locks_a_live_worker_is_told_from_a_dead_one(tmp_path, monkeypatch, kind):
    def flock(file, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    url = {"sqlite": f"sqlite:///{tmp_path}/study.db", "journal": f"journal:{tmp_path}/study.journal"}[kind]
    spec = spec_of(tmp_path, url=url, num_trials=2)
    study = open_study(spec)
    with signature(spec.directory / "workers") as worker:
        gone = subprocess.Popen(["true"])
        gone.wait()
        dead_lock = Path(worker["lock"]).with_name(f"{gone.pid}-1.lock")
        dead_lock.touch()
        for name in (worker["lock"], str(dead_lock)):
            study.ask().set_user_attr("worker", worker | {"lock": name})
        assert recover(study, spec) == [1]
    work(spec, draw, go_on=lambda: num_finished(study) == 0)
    assert num_finished(study) == 1
