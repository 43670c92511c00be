"""The real run.sh on real data, as a newcomer runs it: whole, again, stopped in the middle, and wrongly called."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SO762 = next((path for path in (ROOT / "data" / "so762", ROOT.parent / "shared" / "data" / "so762") if path.exists()),
             None)
FAST = ["--set", "folds=2", "--set", "train.threads=1"]
QUICK = ["--experiment", "course", "--set", "train.steps=120", "--set", "train.crop_frames=12", *FAST]


def run_sh(workspace, *arguments, cwd=None, check=0):
    """Run run.sh in the present environment and return its output; `check` is the exit code that must come."""
    environment = {**os.environ, "SPEAKER_ID_WORKSPACE": str(workspace)}
    command = ["bash", str(ROOT / "run.sh"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd or ROOT, env=environment)
    assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_the_whole_stream_twice_and_again_from_nothing(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    tracked = (ROOT / "ablations.csv").read_bytes()
    settings = ["--set", "train.steps=20", *FAST]  # the default experiment, cut short
    first = run_sh(tmp_path, *settings)
    written = rows(tmp_path / "submission.csv")
    assert written[0] == ["Id", "Category"]
    assert [row[0] for row in written[1:]] == [f"test_{i:03d}" for i in range(370)]
    assert {row[1] for row in written[1:]} <= set("123456789")
    for word in ("submission: ", "validation accuracy: ", "local score: ", "time: "):
        assert word in first, first
    submission, ledger = (tmp_path / "submission.csv").read_bytes(), (tmp_path / "ablations.csv").read_bytes()
    kept = list((tmp_path / "submissions" / "japanese_vowels").glob("*.csv"))
    assert [path.read_bytes() for path in kept] == [submission]

    started = time.perf_counter()
    second = run_sh(tmp_path, *settings)
    assert time.perf_counter() - started < 15
    assert second.count("skipped") == 3, second
    assert (tmp_path / "submission.csv").read_bytes() == submission
    assert (tmp_path / "ablations.csv").read_bytes() == ledger

    run_sh(tmp_path, "report", "japanese_vowels/default")
    assert not list(home.rglob("*")), "the home folder is left alone"

    shutil.rmtree(tmp_path / "data")
    (tmp_path / "submission.csv").unlink()
    run_sh(tmp_path, *settings)
    assert (tmp_path / "submission.csv").read_bytes() == submission, "same seed, same processor: same bytes"
    assert (tmp_path / "ablations.csv").read_bytes() == ledger, "a run done again with the same figures adds no row"
    assert (ROOT / "ablations.csv").read_bytes() == tracked, "a workspace of its own keeps its own ledger"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The submission of a run that nothing stops."""
    workspace = tmp_path_factory.mktemp("undisturbed")
    run_sh(workspace, *QUICK)
    return (workspace / "submission.csv").read_bytes()


# One signal that is caught in every run of the tests, to stay within the time of CI; tests/test_faults.py sends SIGKILL
# at any moment. `test --all` sends all three here.
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.campaign),
                                    signal.SIGTERM,
                                    pytest.param(signal.SIGKILL, marks=pytest.mark.campaign)])
def test_stopped_in_the_middle_the_same_command_ends_in_the_same_bytes(tmp_path, number, undisturbed, monkeypatch):
    monkeypatch.delenv("SPEAKER_ID_FOLDS_AT_ONCE")
    environment = {**os.environ, "SPEAKER_ID_WORKSPACE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "src", "run", *QUICK], env=environment, cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("last.pt")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == (-number if number == signal.SIGKILL else 130), said
    if number != signal.SIGKILL:
        assert "the same command goes on from there" in said
    run_sh(tmp_path, *QUICK)
    assert (tmp_path / "submission.csv").read_bytes() == undisturbed


def test_paths_are_relative_to_the_caller_and_stages_run_alone(tmp_path):
    settings = ["--data", "../vowels", *QUICK, "--set", "folds=1"]
    shutil.copytree(ROOT / "data" / "japanese_vowels", tmp_path / "vowels")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    workspace = tmp_path / "ws"
    assert "preprocess first" not in run_sh(workspace, "preprocess", *settings, cwd=elsewhere)
    run_sh(workspace, "train", *settings, cwd=elsewhere)
    assert "out-of-fold" in run_sh(workspace, "ensemble", "vowels/", cwd=elsewhere)
    run_sh(workspace, "submit", "vowels/course", "--data", "../vowels", "--out", "mine.csv", cwd=elsewhere)
    assert len(rows(elsewhere / "mine.csv")) == 371


def test_training_without_a_test_part_ends_with_the_out_of_fold_result(tmp_path):
    import numpy as np
    import soundfile

    rng = np.random.default_rng(0)
    for speaker, hertz in (("low", 150), ("high", 400)):
        for k in range(6):
            path = tmp_path / "tones" / "train" / speaker / f"{k}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            tone = np.sin(2 * np.pi * hertz * np.arange(16000) / 16000) + 0.1 * rng.standard_normal(16000)
            soundfile.write(path, 0.3 * tone, 16000)
    settings = ["--data", str(tmp_path / "tones"), "--experiment", "course", "--set", "train.steps=40", "--set",
                "train.threads=1", "--set", "folds=3"]
    said = run_sh(tmp_path / "ws", *settings)
    assert "no test part" in said
    assert "validation accuracy: 1.0000" in said, "two tones an octave apart are no riddle"
    assert not (tmp_path / "ws" / "submission.csv").exists()


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (["--set", "optim.lrr=1"], 2, "did you mean 'lr'"),
    (["--experiment", "defalt"], 2, "did you mean 'default'"),
    (["--data", "no_such"], 2, "no_such"),
    (["train", "--data", "japanese_vowels"], 4, "preprocess"),
    (["submit", "japanese_vowels/nothing"], 2, "no run"),
    (["--smok"], 2, "--smok"),
])
def test_a_wrong_call_is_one_clear_line_and_an_exit_code(tmp_path, arguments, code, said):
    output = run_sh(tmp_path, *arguments, check=code)
    assert said in output
    assert "Traceback" not in output


@pytest.mark.parametrize("name", ["course", "seed88", "default"])
def test_smoke_runs_every_stage_on_real_speech(tmp_path, name):
    if SO762 is None:
        pytest.skip("no real speech at data/so762 (see data/README.md)")
    small = tmp_path / "small"  # 20 speakers and 40 test utterances of it
    for speaker in sorted((SO762 / "train").iterdir())[:20]:
        shutil.copytree(speaker, small / "train" / speaker.name)
    (small / "test").mkdir()
    for path in sorted((SO762 / "test").iterdir())[:40]:
        shutil.copy(path, small / "test" / path.name)
    run_sh(tmp_path / "ws", "--data", str(small), "--experiment", name, "--smoke", "--set", "train.threads=2")
    assert len(rows(tmp_path / "ws" / "submission.csv")) == 41
