"""The table as it is asked for: no wider than the terminal, the right lines in the right order, numbers as CSV."""

import csv
import io

import pytest

from src.__main__ import main
from src.ledger import file as ledger
from src.ledger.table import View, table
from tests.ledger.test_ledger import NASTY, row


@pytest.fixture
def rows(workspace):
    """A ladder over two seeds, with long names and texts; others' rows of the same data; an error rate elsewhere."""
    for seed in range(2):
        ledger.append(row("course", seed, valid=0.6 + seed / 100, public=0.5, private=0.4, score_kind="local",
                          seconds=60.0, pooling="mean", lr=1e-3))
        ledger.append(row("attention", seed, valid=0.7 + seed / 100, parent_group="course", pooling="self_attention",
                          changed="pooling: mean → self_attention", seconds=30.0, lr=3e-4))
        ledger.append(row("an experiment with a very long name indeed", seed, valid=0.65, parent_group="attention",
                          changed="head: mlp → linear; train.mixup: 0 → 0.2; folds: 5 → 1; train.batch_size: 1 → 2; "
                          + NASTY, pooling="self_attention"))
    ledger.append(row("theirs", source="published", valid=0.9, public=0.88125, score_kind="published", digest="",
                      changed="augment.noise: off → on"))
    for at, valid in enumerate((0.4, 0.2)):
        ledger.append(row(f"ctc{at}", competition="speech", metric="token error rate", valid=valid))
    return ledger.read()


def body(text):
    """Return the words that begin the lines of a table's first part."""
    return [line.split()[0] for line in text.split("\n\n")[1].splitlines()[1:]]


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_text_is_no_wider_than_the_terminal_and_has_the_figures(rows, width):
    text = table(rows, "text", View(width=width))
    assert max(map(len, text.splitlines())) <= width
    assert body(text) == ["course", "attention", "an", "theirs"]
    assert "0.6050 ± 0.0071" in text
    assert ("0.88125" in text) == (width > 40)
    assert ("pooling: mean → self_attention" in text) == (width == 200), "what is left is for what was cut"


def test_columns_are_those_that_are_asked_for(rows):
    view = View(columns=("experiment", "lr", "Δ valid", "seconds"), width=60)
    header, course, attention, *_ = table(rows, "text", view).split("\n\n")[1].splitlines()
    assert header.split() == ["experiment", "lr", "Δ", "valid", "seconds"]
    assert course.split() == ["course", "0.001", "60"]
    assert attention.split() == ["attention", "0.0003", "+0.1000", "30"]


def test_lines_are_sorted_the_best_first_and_cut_off(rows):
    assert body(table(rows, "text", View(sort="valid"))) == ["theirs", "attention", "an", "course"]
    assert body(table(rows, "text", View(sort="time"))) == ["attention", "course", "an", "theirs"]
    assert body(table(rows, "text", View(sort="experiment"))) == ["an", "attention", "course", "theirs"]
    top = table(rows, "text", View(top=1))
    assert body(top) == ["theirs"]
    assert "ctc1" in top, "of error rates the smallest"
    assert "ctc0" not in top


def test_a_technique_has_the_runs_that_changed_it_and_what_they_changed(rows):
    text = table(rows, "text", View(technique="pooling", width=80))
    assert body(text) == ["course", "attention"]
    assert "self_attention" in text.split("\n\n")[1].splitlines()[2]
    assert "pooling" in text.split("\n\n")[1].splitlines()[0]
    assert "speech" not in text
    assert body(table(rows, "text", View(technique="train.mixup"))) == ["attention", "an"]
    assert body(table(rows, "text", View(technique="augment"))) == ["theirs"]
    assert "no run has changed dropout" in table(rows, "text", View(technique="dropout"))


def test_csv_has_numbers(rows):
    found = list(csv.DictReader(io.StringIO(table(rows, "csv"), newline="")))
    assert [item["experiment"] for item in found][:2] == ["course", "attention"]
    first = {"competition": "vowels", "metric": "accuracy", "by": "ours", "n": "2", "valid": "0.605",
             "valid_deviation": "0.00707107", "public": "0.5", "time": "60", "effect": ""}
    assert {name: found[0][name] for name in first} == first
    assert float(found[1]["effect"]) == pytest.approx(0.1)
    assert "folds: 5 → 1" in found[2]["changed"], "with what a column of its own shows"
    assert found[2]["changed"].endswith(NASTY)
    assert found[-1]["metric"] == "token error rate"


def test_the_command_line_of_the_table(rows, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "70")
    assert main(["ledger", "table", "--competition", "vowels", "--sort", "valid", "--top", "2"]) == 0
    said = capsys.readouterr().out
    assert body(said) == ["theirs", "attention"]
    assert max(map(len, said.splitlines())) <= 70
    assert main(["ledger", "table", "--format", "md", "--columns", "experiment,valid"]) == 0
    assert "| attention | 0.7050 ± 0.0071 |" in capsys.readouterr().out
    assert main(["ledger", "table", "--format", "csv", "--technique", "pooling"]) == 0
    assert capsys.readouterr().out.count("\n") == 3
    for wrong, said in ((["--columns", "vaild"], "no column 'vaild'; did you mean 'valid'"),
                        (["--sort", "quality"], "no column 'quality'"), (["--top", "0"], "--top 0: must be"),
                        (["--technique", "poling"], "did you mean 'pooling'")):
        assert main(["ledger", "table", *wrong]) == 2
        assert said in capsys.readouterr().err
