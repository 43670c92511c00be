"""The stages in order, called in this process: what is told before it costs anything, and what ends no stream."""

import csv

import pytest

from src import kaggle, ledger
from src.__main__ import main

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
    assert "private half nan" in capsys.readouterr().out
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


def test_a_blend_has_one_row_and_another_one_when_it_is_made_again(frames_dir, workspace, capsys):
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
    result.write_text(result.read_text().replace(blended[0]["date"], "2026-01-01T00:00:00Z"))
    assert main(["ensemble", *names]) == 0
    assert [row["date"] for row in ledger.read() if row["stage"] == "ensemble"][1:] == ["2026-01-01T00:00:00Z"]
    assert main(["ensemble", names[0], names[0]]) == 2
    assert "a run is named twice" in capsys.readouterr().err


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
