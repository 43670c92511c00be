"""Scores against a solution: right by hand, in every row that has predicted, in none that a search tried."""

import csv
import unicodedata

import pytest

from src.__main__ import main
from src.base.errors import InputError
from src.ledger import file as ledger
from src.ledger.record import write_row
from src.ledger.score import score_answers
from src.runs.folder import Run
from src.runs.plan import Plan
from src.runs.predictions import read_answers

TINY = ("--set", "train.steps=4", "--set", "train.crop_frames=5", "--set", "train.threads=1")
COURSE = ("--experiment", "course", "--set", "encoder.d_model=8", "--set", "folds=2", *TINY)
SPEAKERS = ("x", unicodedata.normalize("NFD", "ü"))
ANSWERS = {"b,1": "x", 'a"2': "x", "ü3": SPEAKERS[1]}


@pytest.fixture
def solution(tmp_path):
    return tmp_path / "solution.csv"


def scored(solution, text):
    solution.write_text(text, encoding="utf-8")
    return score_answers(ANSWERS, solution, SPEAKERS, "the answers")


def test_each_half_is_scored_by_itself_and_names_fit_in_either_unicode_form(solution):
    whole = 'Id,Category,Usage\n"b,1",x,Public\n"a""2",ü,public\nü3,ü,Private\n'
    assert scored(solution, whole) == (0.5, 1.0, pytest.approx(2 / 3), 2, 3)
    part = scored(solution, "Id,Category\nü3,ü\n")
    assert (part.halves, part.num_right, part.num_total) == ({"public": 1.0}, 1, 1)


@pytest.mark.parametrize(("text", "said"), [
    ("Id,Category,Usage\nother,x,Public\n", "line 2: id 'other' is not in the answers"),
    ("Id,Category\nü3,x\nü3,x\n", "line 3: id 'ü3' is not in .*, or stands twice"),
    ("Id,Category,Usage\nü3,x\n", "2 fields under 3 columns"),
    ('Id,Category\n"', "not a valid UTF-8 CSV table"),
    ("Id,Category,Half\nü3,x,Public\n", "unknown column 'Half'"),
    ("Id,Category,Usage\nü3,x,Secret\n", "line 2: Usage 'Secret'; write Public or Private"),
    ("Id,Category\nü3,1\n", "line 2: Category '1' is no speaker"),
])
def test_a_wrong_line_of_a_solution_is_named(solution, text, said):
    with pytest.raises(InputError, match=said):
        scored(solution, text)


@pytest.fixture
def solved_dir(frames_dir):
    """The competition of frames with a solution of which some answers will be right: all are of one speaker."""
    rows = [(f"test_{i}", "anna", "Public" if i < 2 else "Private") for i in range(5)]
    with open(frames_dir / "solution.csv", "w", newline="") as file:
        csv.writer(file).writerows([("Id", "Category", "Usage"), *rows])
    return frames_dir


def by_hand(answers):
    """Return the cells of the scores of answers {utt_id: speaker}."""
    hits = [answers[f"test_{i}"] == "anna" for i in range(5)]
    return f"{sum(hits[:2]) / 2:.6g}", f"{sum(hits[2:]) / 3:.6g}", "local"


def cells(row):
    return row["public"], row["private"], row["score_kind"]


def test_whatever_predicts_a_test_part_has_its_scores_in_its_row(solved_dir, workspace, capsys):
    data = ("--data", str(solved_dir))
    assert main(["run", *data, *COURSE]) == 0
    with open(workspace / "submission.csv", newline="") as file:
        submitted = {row["Id"]: row["Category"] for row in csv.DictReader(file)}
    assert cells(ledger.read()[0]) == by_hand(submitted)
    assert f"local score: {sum(s == 'anna' for s in submitted.values()) / 5:.4f} (" in capsys.readouterr().out
    assert main(["train", *data, *COURSE, "--set", "seed=1"]) == 0
    assert main(["ablate", *data, "--ladder", "lab", "--steps", "4", "--seeds", "1", *TINY[2:]]) == 0
    trained = [row["run_id"] for row in ledger.read()]
    assert main(["ensemble", *trained[:2]]) == 0
    rows = ledger.read()
    assert [row["stage"] for row in rows] == ["train"] * 2 + ["ablate"] * 4 + ["ensemble"]
    for row in rows:  # of those without a blend, the answers are those of the one that is made later
        before = read_answers(Run.find(row["run_id"]))
        assert cells(row) == by_hand(before), row["run_id"]
        if row["stage"] != "ensemble":
            assert main(["submit", row["run_id"], *data, "--out", str(workspace / "again.csv")]) == 0
            with open(workspace / "again.csv", newline="") as file:
                assert {r["Id"]: r["Category"] for r in csv.DictReader(file)} == before
    assert ledger.read() == rows, "what is scored is not scored otherwise"


def test_a_solution_that_comes_later_fills_the_rows_and_a_search_s_trial_stays_without(solved_dir, workspace,
                                                                                       monkeypatch, capsys):
    monkeypatch.setenv("SPEAKER_ID_NO_SCORE", "1")
    assert main(["preprocess", "--data", str(solved_dir), *COURSE]) == 0
    for seed in (0, 1):
        assert main(["train", "--data", str(solved_dir), *COURSE, "--set", f"seed={seed}"]) == 0
    names = [row["run_id"] for row in ledger.read()]
    fill = ["ledger", "score", *names, "--solution", str(solved_dir / "solution.csv")]
    assert [cells(row) for row in ledger.read()] == [("", "", "")] * 2
    assert main(fill) == 2
    assert "SPEAKER_ID_NO_SCORE is set, so no solution is read" in capsys.readouterr().err
    monkeypatch.delenv("SPEAKER_ID_NO_SCORE")
    run = Run.find(names[0])
    plan = Plan("toy_frames", run.experiment, run.store_dir(), run.result["digest"])
    write_row(plan, run.result | {"finished": "2026-01-01T00:00:00Z", "valid": 0.1}, None, "", "tune")
    assert main(fill) == 0
    assert [cells(row) for row in ledger.read()] == [
        *(by_hand(read_answers(Run.find(name))) for name in names), ("", "", "")]
    assert main([*fill, "--public", "0.5"]) == 2
    assert main(["ledger", "score", *names, "--public", "0.5"]) == 2
    said = capsys.readouterr().err
    assert "give --solution, or --public and --private" in said
    assert "several runs take --solution FILE" in said


def test_a_solution_that_cannot_be_read_leaves_the_row_without_scores(solved_dir, workspace, capsys):
    (solved_dir / "solution.csv").write_text("Id,Category\ntest_0,nobody\n")
    assert main(["preprocess", "--data", str(solved_dir), *COURSE]) == 0
    assert main(["train", "--data", str(solved_dir), *COURSE]) == 0
    assert "not scored: " in capsys.readouterr().out
    assert [cells(row) for row in ledger.read()] == [("", "", "")]
