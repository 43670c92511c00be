"""Rows from anywhere: added by hand, from Kaggle's list, from another ledger; and those that the ledger cannot take."""

import fcntl
import os

import pytest

from src.__main__ import main
from src.base.errors import RunError
from src.ledger import elsewhere, kaggle
from src.ledger import file as ledger
from src.ledger.groups import groups
from src.ledger.kaggle import Submission
from tests.ledger.test_ledger import row

NOTEBOOK = ["ledger", "add", "--competition", "hw4", "--experiment", "seed88", "--set", "encoder.d_model=512", "--set",
            "train.steps=70000", "--public", "0.88125", "--private", "0.879", "--minutes", "47", "--note", "a notebook"]


def test_a_notebook_s_run_has_a_row_with_its_techniques_and_a_run_id_of_its_own(workspace, monkeypatch, capsys):
    assert main(NOTEBOOK) == 0
    (found,) = ledger.read()
    expected = {"source": "elsewhere", "competition": "hw4", "experiment": "seed88", "parent": "seed88",
                "seconds": "2820.0", "changed": "encoder.d_model: 256 → 512; train.steps: 6000 → 70000",
                "encoder": "conformer",
                "d_model": "512", "layers": "3", "pooling": "self_attention", "batch_norm": "yes",
                "head": "am_softmax", "scale": "30", "batch_size": "32", "steps": "70000", "folds": "", "seeds": "",
                "device": "", "commit": "", "public": "0.88125", "private": "0.879", "score_kind": "kaggle",
                "valid": "", "status": "ok", "note": "a notebook"}
    assert {column: found[column] for column in expected} == expected
    assert found["run_id"] == f"hw4/seed88-{found['digest'][:8]}"
    assert found["run_id"] in capsys.readouterr().out
    monkeypatch.setattr(elsewhere, "timestamp", lambda: "2030-01-01T00:00:00Z")
    assert main(NOTEBOOK) == 0
    assert "there already" in capsys.readouterr().out
    assert ledger.read() == [found]
    assert main([*NOTEBOOK[:-1], "a colleague's"]) == 0
    assert len({item["run_id"] for item in ledger.read()}) == 2
    assert ledger.score("hw4/seed88-" + found["digest"][:8], private=0.5, replace=True)["private"] == "0.5"


def test_what_the_data_would_choose_stays_empty(workspace):
    assert main(["ledger", "add", "--competition", "hw4", "--experiment", "default", "--valid", "0.95"]) == 0
    (found,) = ledger.read()
    assert {found[column] for column in ("encoder", "d_model", "augment", "crop_frames", "steps", "public")} == {""}
    assert (found["pooling"], found["head"], found["parent"], found["score_kind"]) == ("statistics", "aam_softmax",
                                                                                      "course", "")
    assert "auto" not in set(found.values())


@pytest.mark.parametrize(("more", "said"), [
    (["--public", "0,88"], "--public 0,88: an accuracy lies between 0 and 1"),
    (["--public", "88.1"], "--public 88.1: an accuracy lies between 0 and 1"),
    (["--private", "nan"], "--private nan: an accuracy"), (["--minutes", "-3"], "--minutes -3: minutes are"),
    (["--valid", "inf"], "--valid inf: an accuracy"), (["--set", "encoder.dmodel=1"], "did you mean 'd_model'"),
    (["--experiment", "sede88"], "did you mean 'seed88'"), (["--set", "optim.lr=-1"], "must be at least 0"),
    (["--competition", "a/b"], "a name without '/'"), (["--from", "nothing.csv"], "nothing.csv: no such file"),
])
def test_what_cannot_be_is_told_in_a_line(workspace, capsys, more, said):
    assert main([*NOTEBOOK, *more]) in (2, 3)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (workspace / "ablations.csv").exists()
    assert main(NOTEBOOK[:10]) == 2
    assert "give what the run has reached" in capsys.readouterr().err


def test_rows_from_elsewhere_enter_no_mean_of_ours(workspace):
    ledger.append(row("seed88", valid=0.9))
    for seed in range(2):
        ledger.append(row("seed88", seed=seed, valid=0.5, source="elsewhere"))
    assert [len(group.rows) for group in groups(ledger.read())] == [1, 1, 1]


def test_a_submission_that_no_row_knows_gets_one_row_whose_scores_follow_kaggle(workspace, monkeypatch, capsys):
    ledger.append(row("ours"))
    listed = [
        Submission("ours.csv", "2026-11-20 10:00:00", row("ours")["run_id"], "complete", 0.9, None),
        Submission("notebook.csv", "2026-11-20 09:00:00", "by hand", "complete", 0.8, None, "41"),
        Submission("notebook.csv", "2026-11-20 08:00:00", "by hand", "complete", 0.7, None, "40"),
        Submission("late.csv", "2026-11-20 07:00:00", "", "pending", None, None),
        Submission("bad.csv", "2026-11-20 06:00:00", "", "error", None, None),
    ]
    monkeypatch.setattr(kaggle, "submissions", lambda competition: listed)
    assert main(["ledger", "sync", "ml2022spring-hw4"]) == 0
    assert "not from a run in this ledger: 4" in capsys.readouterr().out
    assert len(ledger.read()) == 1
    add = ["ledger", "sync", "ml2022spring-hw4", "--add", "--competition", "hw4"]
    assert main(add) == 0
    said = capsys.readouterr().out
    assert "added: 2\n  hw4/notebook-" in said
    assert "not from a run in this ledger: 2\n  late.csv" in said
    found = [(item["source"], item["competition"], item["public"], item["date"], item["score_kind"])
             for item in ledger.read()[1:]]
    assert found == [("elsewhere", "hw4", "0.8", "2026-11-20T09:00:00Z", "kaggle"),
                     ("elsewhere", "hw4", "0.7", "2026-11-20T08:00:00Z", "kaggle")]
    listed[1] = Submission("notebook.csv", "2026-11-20 09:00:00", "by hand", "complete", 0.8, 0.81, "41")
    before = ledger.read()
    for arguments in (add, add[:3]):
        assert main(arguments) == 0
        assert ledger.read() == [before[0], before[1] | {"private": "0.81"}, before[2]]


def test_another_ledger_s_rows_are_brought_in_once_and_its_file_stays(workspace):
    theirs = workspace / "theirs.csv"
    for seed in range(2):
        ledger.append(row(seed=seed, date=f"2026-01-0{seed + 1}T00:00:00Z", valid=0.5 + seed / 10), theirs)
        ledger.append(row(seed=seed, source="published", digest="", date="", valid=0.9), theirs)
    ledger.append(row(seed=1, date="2026-01-02T00:00:00Z", valid=0.6))
    before = theirs.read_bytes()
    assert ledger.bring_in(theirs) == (3, 4)
    assert ledger.bring_in(theirs) == (0, 4)
    assert theirs.read_bytes() == before
    assert len(ledger.read()) == 4
    assert main(["ledger", "add", "--from", str(workspace / "ablations.csv")]) == 2


def test_a_ledger_that_is_locked_or_protected_takes_no_row_and_none_is_lost(workspace, monkeypatch, capsys):
    ledger.append(row())
    whole = (workspace / "ablations.csv").read_bytes()
    monkeypatch.setattr(ledger, "LOCK_S", 0.1)
    with open(workspace / ".ablations.csv.lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=r"has held its lock for 0\.1 s"):
            ledger.append(row(seed=1))
        ledger.record(row(seed=1))
    opened = os.open

    def protected(path, *how):
        if str(path).endswith("ablations.csv"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *how)

    monkeypatch.setattr(os, "open", protected)
    ledger.record(row(seed=2))
    monkeypatch.setattr(os, "open", opened)
    said = capsys.readouterr().out
    assert "cannot be written (another process has held its lock" in said
    assert "ablations.csv: cannot be written (Permission denied)" in said
    assert (workspace / "ablations.csv").read_bytes() == whole
    assert [item["seeds"] for item in ledger.read(ledger.aside_path())] == ["1", "2"]
    assert [item["seeds"] for item in ledger.known()] == ["0", "1", "2"]
    assert ledger.contains(row(seed=2)["digest"], "")


def test_a_run_done_again_fills_the_scores_that_its_row_lacks(workspace):
    ledger.append(row(valid=0.5))
    assert not ledger.append(row(valid=0.5, public=0.4, private=0.3, score_kind="local"), once=True)
    (found,) = ledger.read()
    assert (found["public"], found["private"], found["score_kind"]) == ("0.4", "0.3", "local")
    assert not ledger.append(row(valid=0.5, public=0.1, score_kind="kaggle"), once=True)
    assert ledger.read()[0]["public"] == "0.4"
