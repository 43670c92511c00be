"""A ledger that other programs saved: every row is read as it was, and no byte changes but those that must."""

import csv
import io
from pathlib import Path

import pandas
import pytest

from src.base.workspace import PROJECT_DIR
from src.ledger import file as ledger
from src.ledger.row import COLUMNS
from src.ledger.sheet import parse
from tests.ledger.test_ledger import NASTY, row

LATER = ("shifted", "conditions")  # columns that the first version's ledger has not


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger whose cells are all that a spreadsheet takes for something else."""
    path = tmp_path / "ablations.csv"
    ledger.append(row(note=NASTY, valid=0.9837837, lr=3e-4, params=4_123_456, seconds=61.0, scale=30.0, batch_size=32,
                      augment="a+b", group="00852682", parent_group="12345678", public=1.0, score_kind="local"), path)
    ledger.append(row(seed=1, folds="all", d_model=80, mean_norm="both", group="0085268f"), path)
    ledger.append(row(seed=2, steps=None, status="failed", note="the last"), path)
    return path


def saved(data: bytes, how: str) -> bytes:
    """Return the file as a program saves it."""
    table = list(csv.reader(io.StringIO(data.decode(), newline="")))
    out = io.StringIO(newline="")
    if how == "CR LF":
        return data.replace(b"\n", b"\r\n")  # in quoted cells too
    if how == "byte-order mark":
        return b"\xef\xbb\xbf" + data
    if how == "no last newline":
        return data[:-1]
    if how == "all quoted":
        csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(table)
    if how == "columns moved":
        csv.writer(out, lineterminator="\n").writerows([cells[::-1] for cells in table])
    if how.startswith("pandas"):
        pandas.read_csv(io.BytesIO(data)).to_csv(out, index=how.endswith("index"))
    if how == "spreadsheet":
        number = {"4123456": "4123456.0", "00852682": "852682", "0.0003": "3.00E-04"}
        csv.writer(out, lineterminator="\r\n").writerows(
            [[number.get(cell, cell) for cell in cells] + ["", ""] for cells in table])
        return b"\xef\xbb\xbf" + out.getvalue().encode().removesuffix(b"\r\n")
    if how == "older version":
        gone = [COLUMNS.index(column) for column in LATER]
        csv.writer(out, lineterminator="\n").writerows(
            [[cell for at, cell in enumerate(cells) if at not in gone] for cells in table])
    return out.getvalue().encode()


PROGRAMS = ("CR LF", "byte-order mark", "no last newline", "all quoted", "columns moved", "pandas",
            "pandas with its index", "spreadsheet")


def numbers(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return rows with a learning rate and a duration by value: programs write them as they like."""
    return [{**item, **{column: str(float(item[column] or "nan")) for column in ("lr", "seconds", "public")}}
            for item in rows]


@pytest.mark.parametrize("how", PROGRAMS)
def test_what_another_program_saved_is_read_and_its_bytes_stay(path, how):
    before = ledger.read(path)
    foreign = saved(path.read_bytes(), how)
    path.write_bytes(foreign)
    assert numbers(ledger.read(path)) == numbers(before)
    assert path.read_bytes() == foreign, "reading changes nothing"
    ledger.append(row(seed=3, note=NASTY), path)
    after = path.read_bytes()
    assert after.startswith(foreign), "a row is added behind what is there"
    assert after.endswith(b"\r\n") == (how in ("CR LF", "spreadsheet"))
    rows = ledger.read(path)
    assert numbers(rows[:3]) == numbers(before)
    assert (rows[3]["seeds"], rows[3]["note"]) == ("3", NASTY)
    ledger.score(rows[1]["run_id"], public=0.8715, path=path)
    assert ledger.read(path)[1] == rows[1] | {"public": "0.8715", "score_kind": "kaggle"}
    old, new = (parse(data, path).records for data in (after, path.read_bytes()))
    assert [a == b for a, b in zip(old, new)] == [True, False, True, True], "one record differs"
    fields = zip(old[1].split(b","), new[1].split(b","), strict=True)
    assert {new for old, new in fields if old != new} == {b"0.8715", b"kaggle"}, "in two cells"


def test_an_older_version_s_ledger_is_read_and_gets_the_new_columns_when_a_row_is_added(path):
    before = ledger.read(path)
    whole = path.read_bytes()
    older = saved(whole, "older version")
    path.write_bytes(older)
    assert ledger.read(path) == before
    ledger.score(before[0]["run_id"], public=0.5, kind="local", path=path, replace=True)
    assert path.read_bytes() == older.replace(b",1,,local,", b",0.5,,local,"), "which needs no new column"
    path.write_bytes(older)
    ledger.describe_shift(before[1]["run_id"], 0.75, "clean 0.9", path)
    assert ledger.read(path) == [before[0], before[1] | {"shifted": "0.75", "conditions": "clean 0.9"}, before[2]]
    path.write_bytes(older)
    ledger.append(row(seed=3, shifted=0.5), path)
    assert path.read_bytes().startswith(whole), "as this version would have written it"
    assert ledger.read(path)[3]["shifted"] == "0.5"


def test_the_project_s_own_ledger_survives_pandas(tmp_path):
    before = ledger.read(PROJECT_DIR / "ablations.csv")
    path = tmp_path / "ablations.csv"
    pandas.read_csv(PROJECT_DIR / "ablations.csv").to_csv(path)
    after = ledger.read(path)
    figures = {"train", "valid", "public", "private", "lr", "ema", "seconds"}
    assert len(after) == len(before)
    for old, new in zip(before, after):
        assert {column for column in COLUMNS if old[column] != new[column]} <= figures
        assert all(float(old[column] or 0) == float(new[column] or 0) for column in figures)
