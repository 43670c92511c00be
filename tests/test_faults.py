"""Faults from outside: SIGKILL at any moment, a disk that fills up, two runs at once. Nothing is lost or mixed."""

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.competitions import SPEAKERS, voice, write_audio

ROOT = Path(__file__).parent.parent
SETTINGS = ["--experiment", "course", "--set", "train.steps=40", "--set", "train.valid_every=5", "--set", "folds=2",
            "--set", "train.threads=1", "--set", "train.crop_frames=30"]
STAGES = ("preprocess", "train", "run")  # the last is left with ensemble and submit
KEPT = ("frames.bin", "table.csv", "model.pt", "valid.npz", "test.npz", "pseudo_labels.npz", "submission.csv")
KILLS, QUICK_KILLS = 51, 3
LIMIT_S = 120


def start(stage, data, workspace):
    environment = {**os.environ, "SPEAKER_ID_WORKSPACE": str(workspace), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "src", stage, "--data", str(data), *SETTINGS], env=environment,
                            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)


def finish(process, code=0):
    said = process.communicate(timeout=LIMIT_S)[0]
    assert process.returncode == code, said
    return said


def content(workspace):
    return {str(path.relative_to(workspace)): path.read_bytes() for path in sorted(workspace.rglob("*"))
            if path.name in KEPT}


def ledger_length(workspace):
    with open(workspace / "ablations.csv", newline="", encoding="utf-8") as file:
        return len(list(csv.reader(file)))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A competition of audio, what the stream leaves of it, and the seconds that each stage takes."""
    data, workspace, seconds = tmp_path_factory.mktemp("tones"), tmp_path_factory.mktemp("calm"), {}
    for i, name in enumerate(SPEAKERS):
        (data / "train" / name).mkdir(parents=True)
        for take in range(12):
            write_audio(data / "train" / name / f"{take}.wav", voice(i, take, 0.8))
    (data / "test").mkdir()
    for take in range(12):
        write_audio(data / "test" / f"{take}.wav", voice(take % 3, 20 + take, 0.8))
    for stage in STAGES:
        started = time.monotonic()
        finish(start(stage, data, workspace))
        seconds[stage] = time.monotonic() - started
    return data, content(workspace), seconds


@pytest.mark.parametrize("kills", [QUICK_KILLS, pytest.param(KILLS, marks=pytest.mark.campaign)])
def test_killed_at_any_moment_a_rerun_ends_in_the_same_bytes(undisturbed, tmp_path, kills):
    data, expected, seconds = undisturbed
    rng, injected, rounds = np.random.default_rng(kills), 0, 0
    while injected < kills:
        workspace = tmp_path / str(rounds)
        rounds += 1
        for stage in STAGES:
            process = start(stage, data, workspace)
            time.sleep(rng.uniform(0, seconds[stage]))
            injected += process.poll() is None
            with contextlib.suppress(ProcessLookupError):  # it was done just before
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=LIMIT_S)
            finish(start(stage, data, workspace))
        assert content(workspace) == expected, f"round {rounds}"
        assert ledger_length(workspace) == 2, "header and one run"
    print(f"{injected} kills in {rounds} rounds of {', '.join(STAGES)}: all ended in the same bytes")


def test_a_full_disk_is_said_and_the_same_command_goes_on_after_room_is_made(undisturbed, tmp_path):
    data, expected, _ = undisturbed
    workspace = tmp_path / "small"
    workspace.mkdir()

    def mount(*options):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(workspace)],
                              capture_output=True, text=True, check=False)

    refused = mount("size=64k")
    if refused.returncode:
        pytest.skip(f"needs the right to mount a small tmpfs: {refused.stderr.strip()}")
    try:
        whole = sum(map(len, expected.values()))
        for share in (0.0, 0.2, 0.5, 0.8):  # the disk fills up in one stage after the other
            size = max(64_000, int(share * whole))
            subprocess.run(["mount", "-o", f"remount,size={size}", str(workspace)], check=True)
            said = finish(start("run", data, workspace), code=4)
            assert "Traceback" not in said
            assert "the disk is full" in said, said
            assert "same command again" in said, said
        subprocess.run(["mount", "-o", "remount,size=20m", str(workspace)], check=True)
        finish(start("train", data, workspace))
        filler = workspace / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:  # what is left, so that the ensemble has none
                file.write(bytes(4096))
        said = finish(start("run", data, workspace), code=4)
        assert "the disk is full" in said, said
        filler.unlink()
        finish(start("run", data, workspace))
        assert content(workspace) == expected
        assert ledger_length(workspace) == 2
    finally:
        subprocess.run(["umount", "-l", str(workspace)], check=False)


def test_two_runs_at_once_end_in_one_result(undisturbed, tmp_path):
    data, expected, _ = undisturbed
    both = [start("run", data, tmp_path) for _ in range(2)]
    said = [finish(process) for process in both]
    assert sum("waiting" in output for output in said) == 1, said
    assert content(tmp_path) == expected
    assert ledger_length(tmp_path) == 2
