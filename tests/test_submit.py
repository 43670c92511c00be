"""Submissions: ids, order and classes checked against the competition; scores by hand."""

import csv
import unicodedata
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src import submit as stage
from src.base.errors import InputError, RunError
from src.base.files import write_json
from src.competition.open import Competition
from src.competition.submission_form import Form
from src.competition.utterances import Utterance
from src.runs.folder import Run
from src.runs.logits import save_logits
from src.submit import local_score, write_submission


@pytest.fixture
def competition(tmp_path):
    ids = ["b,1", 'a"2', "ü3"]
    utterances = [Utterance("t", "t", "train", "x"), *(Utterance(i, i, "test", "") for i in ids)]
    directory = tmp_path / "toy"
    directory.mkdir()
    solution = directory / "solution.csv"
    with open(solution, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["Id", "Category", "Usage"], ["b,1", "x", "Public"], ['a"2', "y", "Public"],
                                    ["ü3", "x", "Private"]])
    return Competition(name="toy", home=directory, directory=directory, kind="audio", feature_kind="waveform",
                       feature_dim=None, speakers=("x", "y"), utterances=utterances, has_test=True,
                       solution_path=solution)


def write(competition, tmp_path, rows, logits, utt_ids, speakers=("x", "y"), **how):
    save_logits(tmp_path / "blend" / "test.npz", np.array(rows), np.float32(logits))
    store = SimpleNamespace(utt_ids=utt_ids, speakers=speakers)
    return write_submission(competition, store, Run(tmp_path / "blend"), tmp_path / "out.csv", "name", **how)


def test_rows_follow_the_competition_whatever_the_store_order(competition, tmp_path, workspace):
    kept = write(competition, tmp_path, [3, 1, 2], [[0, 9], [9, 0], [5, 1]], ["t", "b,1", 'a"2', "ü3"])
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["Id", "Category"], ["b,1", "x"], ['a"2', "x"], ["ü3", "y"]]
    assert Path(kept).read_bytes() == (tmp_path / "out.csv").read_bytes()
    assert kept.is_relative_to(workspace)
    score = local_score(competition, tmp_path / "out.csv")
    assert (score.public, score.private, score.num_right, score.num_total) == (0.5, 0.0, 1, 3)


@pytest.mark.parametrize(("rows", "logits"), [
    ([1, 2], [[0, 1], [0, 1]]),  # one missing
    ([1, 2, 2], [[0, 1]] * 3),  # one twice
    ([1, 2, 3], [[0, 1, 2]] * 3),  # a class too many
    ([1, 2, 3], [[0, np.nan]] * 3),
])
def test_what_does_not_match_the_competition_is_refused_and_nothing_is_written(competition, tmp_path, workspace, rows,
                                                                               logits):
    with pytest.raises(RunError):
        write(competition, tmp_path, rows, logits, ["t", "b,1", 'a"2', "ü3"])
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(("speakers", "said"), [(("x", "z"), r"\(y, z\)"), (("y", "x"), "in another order")])
def test_speakers_that_were_renamed_since_are_told(competition, tmp_path, workspace, speakers, said):
    with pytest.raises(RunError, match=f"its 2 speakers are not the competition's 2 .*{said}"):
        write(competition, tmp_path, [1, 2, 3], [[0, 1]] * 3, ["t", "b,1", 'a"2', "ü3"], speakers)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(("line", "said"), [
    ("other,x,Public", "line 5: id 'other' is not in"),
    ("ü3,x,Private", "line 5: id 'ü3' is not in .*, or stands twice"),
    ("ü3,x", "2 fields under 3 columns"),
    ('"', "not a valid UTF-8 CSV table"),
])
def test_a_wrong_line_of_a_solution_is_named(competition, tmp_path, workspace, line, said):
    write(competition, tmp_path, [1, 2, 3], [[0, 1]] * 3, ["t", "b,1", 'a"2', "ü3"])
    with open(competition.solution_path, "a", encoding="utf-8") as file:
        file.write(line)
    with pytest.raises(InputError, match=said):
        local_score(competition, tmp_path / "out.csv")


def test_a_solution_with_another_column_or_half_is_refused(competition, tmp_path, workspace):
    write(competition, tmp_path, [1, 2, 3], [[0, 1]] * 3, ["t", "b,1", 'a"2', "ü3"])
    for content, said in (("Id,Category,Half\nü3,x,Public\n", "unknown column 'Half'"),
                          ("Id,Category,Usage\nü3,x,Secret\n", "line 2: Usage 'Secret'; write Public or Private")):
        competition.solution_path.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=said):
            local_score(competition, tmp_path / "out.csv")


def test_a_submission_and_its_solution_follow_the_samples_form(competition, tmp_path, workspace):
    rows = (("7", "3", ""), ("8", "1", "guess"), ("9", "2", ""))
    form = Form(("row", "Id", "Label"), 1, 2, rows, ("ü3", "b,1", 'a"2'))
    competition = replace(competition, form=form)
    write(competition, tmp_path, [3, 1, 2], [[0, 9], [9, 0], [5, 1]], ["t", "b,1", 'a"2', "ü3"])
    assert (tmp_path / "out.csv").read_text() == "row,Id,Label\n7,3,y\n8,1,x\n9,2,x\n"
    for header, line in (("Id,Label,Usage", 5), ("Id,Category,Usage", 5)):
        competition.solution_path.write_text(f"{header}\n3,y,Public\n1,y,Public\n2,x,Private\n")
        assert local_score(competition, tmp_path / "out.csv")[:3] == (0.5, 1.0, 2 / 3)
        with open(competition.solution_path, "a") as file:
            file.write("b,y,Public\n")
        with pytest.raises(InputError, match=f"line {line}: id 'b' is not in"):
            local_score(competition, tmp_path / "out.csv")


def test_a_solution_names_speakers_in_either_unicode_form_and_nobody_else(competition, tmp_path, workspace):
    competition = replace(competition, speakers=("x", unicodedata.normalize("NFD", "ü")))
    write(competition, tmp_path, [1, 2, 3], [[0, 1]] * 3, ["t", "b,1", 'a"2', "ü3"], competition.speakers)
    solution = competition.solution_path
    solution.write_text("Id,Category\nü3," + unicodedata.normalize("NFC", "ü") + "\n", encoding="utf-8")
    assert local_score(competition, tmp_path / "out.csv").num_right == 1
    solution.write_text("Id,Category\nü3,1\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2: Category '1' is no speaker"):
        local_score(competition, tmp_path / "out.csv")


def test_a_tracked_copy_is_replaced_only_on_demand(competition, tmp_path, workspace, monkeypatch):
    monkeypatch.setattr(stage, "is_tracked", lambda path: True)
    rows, logits, ids = [1, 2, 3], [[0, 9], [9, 0], [5, 1]], ["t", "b,1", 'a"2', "ü3"]
    write_json(tmp_path / "blend" / "result.json", {"digest": "12345678abcdef"})
    kept = workspace / "submissions" / "toy" / "name.csv"
    kept.parent.mkdir(parents=True)
    kept.write_text("Id,Category\n")
    assert write(competition, tmp_path, rows, logits, ids).name == "name-12345678.csv"
    assert kept.read_text() == "Id,Category\n"
    assert write(competition, tmp_path, rows, logits, ids, may_replace=True) == kept
    assert write(competition, tmp_path, rows, logits, ids) == kept, "it is the same to the byte"
