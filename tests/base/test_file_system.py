"""File systems that cannot do everything: without locks, syncs, renames over a mount and appending, all goes on.

Each is one whose system call fails as it does there; what needs the call goes without it and says so once.
"""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.__main__ import main
from src.apps.status.leftovers import Leftover, remove
from src.base import file_system
from src.base.files import atomic_open, is_held, lock
from src.ledger import file as ledger
from src.store.writer import Chunk, StoreWriter

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    monkeypatch.setattr(file_system, "_said", set())


def failing(monkeypatch, module, name, code, when=lambda *arguments: True):
    real = getattr(module, name)

    def call(*arguments):
        if when(*arguments):
            raise OSError(code, os.strerror(code))
        return real(*arguments)

    monkeypatch.setattr(module, name, call)


def fill(directory, num_chunks):
    writer = StoreWriter(directory, [1, 1])
    for number in range(len(writer.finished), num_chunks):
        writer.append(Chunk([1], {}, {}, 4, 0x2144DF1C), [memoryview(bytes(4))])  # CRC-32 of four zeros
        assert len(writer.finished) == number + 1
    return writer


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_run_is_whole_and_one_line_says_so(frames_dir, workspace, monkeypatch, capfd, code):
    failing(monkeypatch, fcntl, "flock", code)
    assert main(["run", "--data", str(frames_dir), "--experiment", "quick", "--set", "folds=1", "--set",
                 "train.steps=2", "--set", "train.valid_every=2"]) == 0
    said = [line for line in capfd.readouterr().err.splitlines() if "cannot" in line]
    assert said == [f"{workspace}/data: cannot lock files here ({os.strerror(code)}); do not start two runs at once"]
    assert (workspace / "submission.csv").exists()
    assert len((workspace / "ablations.csv").read_text().splitlines()) == 2


def test_another_error_of_a_lock_is_not_passed_over(tmp_path, monkeypatch):
    failing(monkeypatch, fcntl, "flock", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"), lock(tmp_path / "lock"):
        pass


def test_nothing_is_pruned_that_a_process_might_hold(tmp_path, monkeypatch, capsys):
    failing(monkeypatch, fcntl, "flock", errno.ENOSYS)
    (tmp_path / "partial-1").mkdir()
    leftover = Leftover(tmp_path / "partial-1", "", 0, tmp_path / "lock", lambda: True)
    assert not is_held(tmp_path / "lock")
    assert not remove(leftover)
    assert (tmp_path / "partial-1").exists()
    assert "delete it while nothing runs" in capsys.readouterr().out


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_without_fsync_files_and_stores_are_written(tmp_path, monkeypatch, capsys, code):
    failing(monkeypatch, os, "fsync", code)
    fill(tmp_path / "partial", 2).finish(tmp_path / "store", {}, {})
    assert (tmp_path / "store" / "frames.bin").read_bytes() == bytes(8)
    assert capsys.readouterr().err.count("cannot bring files to the disk") == 1


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EXDEV])
def test_a_file_that_is_a_mount_is_written_in_place(tmp_path, monkeypatch, capsys, code):
    path = tmp_path / "ablations.csv"
    path.write_text("old, and longer than the new\n")
    failing(monkeypatch, os, "replace", code)
    with atomic_open(path) as file:
        file.write("new\n")
    assert path.read_text() == "new\n"
    assert os.listdir(tmp_path) == ["ablations.csv"]
    assert "cannot rename a file to ablations.csv here" in capsys.readouterr().err


def test_without_appending_rows_and_chunks_go_to_the_end(tmp_path, monkeypatch):
    failing(monkeypatch, os, "open", errno.EOPNOTSUPP, lambda path, flags, *mode: flags & os.O_APPEND)
    for seed in (0, 1):
        ledger.append({"date": "2026-01-01T00:00:00Z", "status": "ok", "seeds": 1, "steps": seed, "source": "ours"},
                      tmp_path / "ablations.csv")
    assert [row["steps"] for row in ledger.read(tmp_path / "ablations.csv")] == ["0", "1"]
    fill(tmp_path / "partial", 1).close()
    fill(tmp_path / "partial", 2).finish(tmp_path / "store", {}, {})
    assert (tmp_path / "store" / "frames.bin").read_bytes() == bytes(8)


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="no file system in which even root may not write")
def test_a_workspace_that_cannot_be_written_names_the_remedy(frames_dir, monkeypatch, capsys):
    monkeypatch.setenv("SPEAKER_ID_WORKSPACE", "/sys/kernel")
    assert main(["preprocess", "--data", str(frames_dir)]) == 4
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("error: /sys/kernel/data: ")
    assert "SPEAKER_ID_WORKSPACE=DIR before the same command" in said[0]


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
def test_names_that_the_terminal_cannot_show_are_printed_by_every_process(audio_dir, tmp_path, variables):
    (audio_dir / "train" / "anna").rename(audio_dir / "train" / "Zoë")
    (audio_dir / "sample_submission.csv").unlink()
    folder = audio_dir.rename(tmp_path / "Wettbewerb_ü")
    ours = {"SPEAKER_ID_WORKSPACE": str(tmp_path / "ä"), "SPEAKER_ID_FOLDS_AT_ONCE": "2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "src", "run", "--data", str(folder), "--experiment", "quick", "--set", "folds=2",
         "--set", "train.steps=2", "--set", "train.valid_every=2"],
        capture_output=True, cwd=ROOT, env=os.environ | ours | variables)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert b"Wettbewerb_" in done.stdout
