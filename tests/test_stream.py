"""The stages in order, called in this process: what is told before it costs anything, and what ends no stream."""

import csv
import shlex
import shutil

import numpy as np
import pytest

from src import stream
from src.__main__ import main
from src.base import distributed
from src.ledger import file as ledger
from src.ledger import kaggle
from src.runs.folder import Run
from tests.support.competitions import write_table

TINY = ("--experiment", "course", "--set", "train.steps=4", "--set", "train.crop_frames=5", "--set", "folds=2",
        "--set", "train.threads=1", "--set", "encoder.d_model=8")


@pytest.fixture
def solved_dir(frames_dir):
    """The competition of frames with a solution that does not tell public from private."""
    with open(frames_dir / "solution.csv", "w", newline="") as file:
        csv.writer(file).writerows([("Id", "Category"), *((f"test_{i}", "anna") for i in range(5))])
    return frames_dir


def test_a_solution_of_one_half_is_a_score_and_another_score_in_the_ledger_is_left_alone(solved_dir, workspace, capsys):
    assert main(["run", "--data", str(solved_dir), *TINY]) == 0
    assert "private half" not in capsys.readouterr().out
    (row,) = ledger.read()
    assert (row["score_kind"], row["private"]) == ("local", "")
    ledger.score(row["run_id"], public=0.25, kind="kaggle", replace=True)
    assert main(["run", "--data", str(solved_dir), *TINY]) == 0
    assert "not in the ledger: " in capsys.readouterr().out
    assert [(row["score_kind"], row["public"]) for row in ledger.read()] == [("kaggle", "0.25")]
    (workspace / "ablations.csv").unlink()
    assert main(["submit", "toy_frames/course", "--data", str(solved_dir)]) == 0
    assert "not in the ledger: " in capsys.readouterr().out


def test_a_submission_to_kaggle_is_called_as_the_ledger_calls_the_run(solved_dir, workspace, monkeypatch, capsys):
    sent = []
    monkeypatch.setattr(kaggle, "submit", lambda *arguments: sent.append(arguments) or "Successfully submitted")
    assert main(["run", "--data", str(solved_dir), *TINY]) == 0
    assert main(["submit", "toy_frames/course", "--data", str(solved_dir), "--kaggle", "hw4"]) == 0
    assert [message for _, _, message in sent] == [ledger.read()[0]["run_id"]]
    assert "Successfully submitted" in capsys.readouterr().out


def test_a_blend_has_one_row_and_another_one_when_it_gives_something_else(frames_dir, workspace, capsys):
    for seed in (0, 1):
        assert main(["run", "--data", str(frames_dir), *TINY, "--set", f"seed={seed}"]) == 0
    names = [row["run_id"] for row in ledger.read()]
    for _ in range(2):
        assert main(["ensemble", *names]) == 0
    blended = [row for row in ledger.read() if row["stage"] == "ensemble"]
    assert len(blended) == 1
    (result,) = [path for path in (workspace / "data" / "runs").glob("*/ensemble-*/result.json")
                 if path.parent.name in blended[0]["run_id"]]
    assert blended[0]["digest"].startswith(result.parent.name.rpartition("-")[2])
    again = result.read_text().replace(blended[0]["date"], "2026-01-01T00:00:00Z")
    result.write_text(again)
    assert main(["ensemble", *names]) == 0
    assert len([row for row in ledger.read() if row["stage"] == "ensemble"]) == 1, "the same figures of the same runs"
    result.write_text(again.replace('"params": ', '"params": 1'))
    assert main(["ensemble", *names]) == 0
    assert [row["date"] for row in ledger.read() if row["stage"] == "ensemble"][1:] == ["2026-01-01T00:00:00Z"]
    assert main(["ensemble", names[0], names[0]]) == 2
    assert "a run is named twice" in capsys.readouterr().err


@pytest.mark.parametrize("group", ["", "one"])
@pytest.mark.parametrize("words", [("--smoke",), ("--set", "folds=auto")])
def test_speakers_of_one_file_or_one_group_are_all_trained_on(audio_dir, workspace, capsys, group, words):
    rows = [(path.relative_to(audio_dir), path.parent.name if group else path.name, group and path.parent.name)
            for path in (audio_dir / "train").glob("*/*") if group or path.parent.name == "anna"]
    write_table(audio_dir / "utterances.csv", [("path", "label", "group"), *rows])
    tiny, at = list(TINY), TINY.index("folds=2")
    del tiny[at - 1 : at + 1]
    assert main(["run", "--data", str(audio_dir), *tiny, *words]) == 0
    said = capsys.readouterr().out
    assert "folds=all: every speaker has one file or one group" in said
    assert "validation accuracy" not in said


def test_notices_about_the_folder_are_printed_once_before_anything_is_done(audio_dir, workspace, capsys):
    (audio_dir / "train" / "@eaDir").mkdir()
    (audio_dir / "test" / "t9.xyz").touch()
    assert main(["preprocess", "--data", str(audio_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "@eaDir" in lines[0]
    assert "test/t9.xyz" in lines[1]
    assert sum("left out" in line for line in lines) == 2


def test_a_folder_where_the_submission_should_be_is_told_before_anything_is_trained(frames_dir, workspace, capsys):
    assert main(["run", "--data", str(frames_dir), *TINY, "--out", str(workspace)]) == 2
    assert "a folder; name a file" in capsys.readouterr().err
    assert not (workspace / "data").exists()


def test_a_fault_of_the_file_system_is_one_line_and_verbose_shows_where(frames_dir, workspace, monkeypatch, capsys):
    assert main(["ledger", "plot", "--out", "/proc/nowhere/x.png"]) == 3  # an empty ledger
    assert main(["run", "--data", str(frames_dir), *TINY]) == 0
    assert main(["ledger", "plot", "--out", "/proc/nowhere/x.png"]) == 4
    said = capsys.readouterr().err
    assert "error: /proc/nowhere: " in said
    assert "(--verbose shows where)" in said
    with pytest.raises(OSError, match="nowhere"):
        main(["ledger", "--verbose", "plot", "--out", "/proc/nowhere/x.png"])


def test_a_stopped_run_does_not_stand_before_a_finished_one(frames_dir, workspace, capsys):
    assert main(["run", "--data", str(frames_dir), *TINY]) == 0
    run_id = ledger.read()[0]["run_id"]
    stopped = workspace / "data" / "runs" / "toy_frames" / "course-00000000"
    stopped.mkdir()
    (stopped / "experiment.json").touch()
    assert main(["submit", "toy_frames/course", "--data", str(frames_dir), "--out", str(workspace / "a.csv")]) == 0
    assert (workspace / "submissions" / "toy_frames" / "course.csv").exists(), "as `run` calls it"
    (workspace / "ablations.csv").write_text("changed\n")
    capsys.readouterr()
    assert main(["run", "--data", str(frames_dir), *TINY, "--set", "seed=3"]) == 3
    assert "[1/4]" not in capsys.readouterr().out, "a ledger that could not take the row is told before the work"
    assert Run.find("toy_frames/course").directory.name == run_id.partition("/")[2]
    assert main(["preprocess", "--data", str(frames_dir), *TINY, "--set", "optim.lr=-1"]) == 2
    assert main(["train", "--data", str(frames_dir), *TINY, "--set", "head.name=linear"]) == 2
    assert "--set head=linear takes another part" in capsys.readouterr().err


def test_what_cannot_be_blended_or_submitted_is_told_in_a_line(frames_dir, workspace, capsys):
    assert main(["run", "--data", str(frames_dir), *TINY]) == 0
    runs, run_id = workspace / "data" / "runs", ledger.read()[0]["run_id"]
    before = (workspace / "submission.csv").read_bytes()
    (blend,) = runs.glob("*/ensemble-*")
    shutil.copytree(runs / run_id, runs / "toy_frames" / "stopped-00000000")
    (runs / "toy_frames" / "stopped-00000000" / "result.json").unlink()
    (runs / "pairs" / "full-00000000").mkdir(parents=True)
    (runs / "pairs" / "full-00000000" / "result.json").write_text('{"run_id": "pairs/full-00000000"}')
    data = ["--data", str(frames_dir)]
    for arguments, code, said in (
            (["submit", "toy_frames/stopped", *data], 4, "the run is not finished"),
            (["ensemble", "toy_frames/stopped", run_id], 4, "the run is not finished"),
            (["ensemble", "pairs/full"], 2, "not a run on a competition's speakers"),
            (["ensemble", f"toy_frames/{blend.name}", run_id], 2, f"is a blend itself; name its runs: {run_id}"),
            (["submit", run_id, "--data", "japanese_vowels"], 4, "give the folder of 'toy_frames' with --data"),
            (["train", *data, *TINY, "--set", "train.batch_size=1", "--set", "embedding.batch_norm=true"], 2,
             "batch norm needs two utterances")):
        assert main(arguments) == code
        assert said in capsys.readouterr().err
    for name in ("frames.csv", "frames.npy"):
        shutil.copy(frames_dir / name, workspace / name)
    table = (frames_dir / "frames.csv").read_text().splitlines()
    (frames_dir / "frames.csv").write_text("\n".join(line for line in table if ",test," not in line) + "\n")
    frames = np.load(frames_dir / "frames.npy")
    num_train = sum(int(line.rsplit(",", 1)[1]) for line in table[1:] if ",train," in line)
    np.save(frames_dir / "frames.npy", frames[:num_train])
    assert main(["submit", run_id, *data]) == 2
    assert "has no test part" in capsys.readouterr().err
    assert (workspace / "submission.csv").read_bytes() == before


def test_a_row_says_the_command_that_made_it(frames_dir, workspace, monkeypatch):
    for seed in (0, 1):
        assert main(["run", "--data", str(frames_dir), *TINY, "--set", f"seed={seed}"]) == 0
    assert main(["ensemble", *[row["run_id"] for row in ledger.read()], "--classes", "any"]) == 0
    assert ledger.read()[-1]["command"].endswith(" --classes any")
    assert distributed.command("run") == ["bash", "run.sh"]
    assert distributed.command("train") == ["bash", "run.sh", "train"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert shlex.join(distributed.command("run")) == "bash run.sh torchrun --nproc-per-node 2 -m src train"
    monkeypatch.setenv("WORLD_SIZE", "6")
    assert shlex.join(distributed.command("run")) == "bash run.sh torchrun --nnodes 3 --nproc-per-node 2 -m src train"


def test_a_full_gpu_is_told_in_a_line(workspace, monkeypatch, capsys):
    class OutOfMemoryError(RuntimeError):
        """As torch's is called."""

    def fail(options):
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(stream, "run", fail)
    assert main(["run"]) == 4
    assert "(CUDA out of memory); lower train.batch_size" in capsys.readouterr().err


def test_no_score_neither_reads_a_solution_nor_prints_or_records_a_score(solved_dir, workspace, monkeypatch, capsys):
    (solved_dir / "solution.csv").write_text("a solution that cannot be read")
    monkeypatch.setenv("SPEAKER_ID_NO_SCORE", "1")
    assert main(["run", "--data", str(solved_dir), *TINY]) == 0
    assert "local score" not in capsys.readouterr().out
    assert ledger.read()[0]["public"] == ""
    monkeypatch.setenv("SPEAKER_ID_NO_SCORE", "0")
    assert main(["run", "--data", str(solved_dir), *TINY]) == 3
