"""Folds side by side: the same bits as one after the other, errors and stops as clear, and nobody left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from src.base.errors import DivergedError, RunError, SettingError
from src.base.signals import start_deaf
from src.base.workspace import PROJECT_DIR
from src.settings import auto as adapt
from src.training import workers as fold_workers
from tests.support.stand_in_fold import fail_strangely, live_deaf, train_at_once, train_until_stopped

DEADLINE_S = 60


def wait_for(path):
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.01)


@pytest.mark.parametrize(("cpus", "gb", "folds", "at_once", "threads"), [
    (1, 8, 5, 1, 1), (2, 24, 5, 2, 1), (4, 16, 5, 4, 1), (8, 16, 5, 5, 1), (16, 64, 5, 5, 3), (8, 4, 5, 2, 4),
    (3, 4, 5, 2, 1), (8, 1, 5, 1, 8), (8, 16, 1, 1, 8), (8, 16, 2, 2, 4)])
def test_threads_are_shared_out_among_folds(monkeypatch, cpus, gb, folds, at_once, threads):
    monkeypatch.setattr(adapt, "usable_cpus", lambda: cpus)
    monkeypatch.setattr(adapt, "memory_gb", lambda: gb)
    monkeypatch.delenv(fold_workers.VARIABLE)
    assert adapt.auto_threads(folds, "cpu") == threads
    assert fold_workers.num_at_once(threads, folds) == at_once
    assert adapt.auto_threads("all", "cpu") == adapt.auto_threads(folds, "cuda") == cpus


def test_the_environment_says_how_many_at_once(monkeypatch):
    monkeypatch.setenv(fold_workers.VARIABLE, "3")
    assert (fold_workers.num_at_once(1, 5), fold_workers.num_at_once(1, 2)) == (3, 2)
    monkeypatch.setenv(fold_workers.VARIABLE, "none")
    with pytest.raises(SettingError, match="whole number above 0"):
        fold_workers.num_at_once(1, 5)


def test_every_fold_is_trained_once_by_few_processes(tmp_path):
    fold_workers.run(train_at_once, None, str(tmp_path), [0, 2, 3, 4, 6], 2)
    said = [(tmp_path / f"{fold}.done").read_text() for fold in (0, 2, 3, 4, 6)]
    assert len(list(tmp_path.iterdir())) == 5
    assert {text.split()[0] for text in said} == {"0", "1"}
    assert len(set(said)) == 2
    assert not any(text.endswith(f" {os.getpid()}") for text in said)


@pytest.mark.parametrize(("folds", "error", "message"), [
    ([0, 1, 3], DivergedError, "fold 2: the loss is not finite"),
    ([0, 2, 3], RunError, "fold 3: its process died with exit code -9.*SPEAKER_ID_FOLDS_AT_ONCE=1")])
def test_an_error_in_one_stops_the_others_which_save(tmp_path, folds, error, message):
    with pytest.raises(error, match=message):
        fold_workers.run(train_until_stopped, None, str(tmp_path), folds, 2)
    assert (tmp_path / "0.saved").exists()
    assert not (tmp_path / "3.begun").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_handed_on_and_each_saves(tmp_path, number):
    def ask():
        for fold in (0, 4):
            wait_for(tmp_path / f"{fold}.begun")
        os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(KeyboardInterrupt):
        fold_workers.run(train_until_stopped, None, str(tmp_path), [0, 4, 5], 2)
    asking.join()
    assert {path.name for path in tmp_path.glob("*.saved")} == {"0.saved", "4.saved"}


def test_processes_whose_parent_is_killed_save_and_end(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(f"""
from tests.support.stand_in_fold import train_until_stopped
from src.training import workers as fold_workers
if __name__ == "__main__":
    fold_workers.run(train_until_stopped, None, {str(tmp_path)!r}, [0, 4], 2)
""")
    parent = subprocess.Popen([sys.executable, script], cwd=PROJECT_DIR,
                              env=os.environ | {"PYTHONPATH": f"{PROJECT_DIR}:{PROJECT_DIR / 'tests'}"})
    for fold in (0, 4):
        wait_for(tmp_path / f"{fold}.begun")
    parent.kill()
    parent.wait()
    for fold in (0, 4):
        wait_for(tmp_path / f"{fold}.saved")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_does_not_reach_a_process_that_still_starts(tmp_path, number):
    process = multiprocessing.get_context("spawn").Process(target=live_deaf, args=(str(tmp_path),))
    start_deaf(process)
    os.kill(process.pid, number)
    wait_for(tmp_path / "deaf")
    os.kill(process.pid, number)
    process.join(DEADLINE_S)
    assert process.exitcode == 0
    asked = []
    kept = signal.signal(number, lambda *_: asked.append(number))
    os.kill(os.getpid(), number)
    signal.signal(number, kept)
    assert asked, "who started it hears on"


def test_an_error_that_cannot_be_sent_is_told_all_the_same(tmp_path):
    with pytest.raises(RuntimeError, match="Strange: a compiler's") as caught:
        fold_workers.run(fail_strangely, None, str(tmp_path), [0, 1], 2)
    assert "fail_strangely" in "".join(caught.value.__notes__)
