"""The ledger, ablations.csv: one row a run, written by this file alone.

In: the row of a run that ended (`src.ledger.row`), failed runs too, and later its scores on the leaderboard. Out: a
line that says what changed, what it gave and which command gives it again; `ledger_table` and `ledger_plot` show them.
A writer holds a lock and first reads the whole file strictly, so that neither two processes nor a hand edit lose a row.
Rows taken from a publication have the source "published" and never enter our means.
"""

import csv
import io
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base.errors import InputError, RunError, SettingError, nearest
from src.base.file_system import open_to_append, sync
from src.base.files import atomic_open, lock
from src.base.workspace import ledger_path
from src.ledger.row import COLUMNS, problem_of, to_cell

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

IDENTITY = ("digest", "date", "status")  # of the end of a run, which one row tells
REPEATED = ("digest", "status", "params", "steps", "folds", "seeds", "metric", "train", "valid")  # of a run done again


def append(row: Mapping[str, Any], path: Path | None = None, once: bool = False) -> None:
    """Append a row (column: value; None and non-finite numbers stay empty), on disk when this returns.

    once: unless the same run stands there, as two processes may both want to write it, or a run of the same settings
    and data that gave the same figures, so that repeating a run changes nothing.
    Raises SettingError for an unknown column or a value that does not fit, InputError when the file as it stands is
    not whole (it stays as it is), RunError when the row could not be written (the file stays as it was).
    """
    path = Path(path or ledger_path())
    for key in row:
        if key not in COLUMNS:
            raise SettingError(f"ledger: unknown column '{key}'{nearest(key, COLUMNS)}")
    cells = [to_cell(column, row.get(column)) for column in COLUMNS]
    if problem := problem_of(cells):
        raise SettingError(f"ledger: {problem}")
    line = _line(cells)
    with _locked(path):
        file = open_to_append(path)
        try:
            data = path.read_bytes()
            rows, new = [old for _, old in _parse(data, path)], dict(zip(COLUMNS, cells))
            if once and any(_is_same(old, new) for old in rows):
                return
            content = line if data else _line(COLUMNS) + line
            try:
                if os.write(file, content) != len(content):
                    raise OSError("the disk is full")
                sync(file, path)
            except OSError as error:
                os.ftruncate(file, len(data))
                raise RunError(f"{path}: the row of {row.get('run_id') or 'a run'} could not be written ({error}); "
                               "make room and run the same command again") from error
        finally:
            os.close(file)


def _is_same(old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Return whether two rows are of one run, or of a run and its exact repetition."""
    is_repeated = new["digest"] and new["status"] == "ok" and all(old[column] == new[column] for column in REPEATED)
    return bool(is_repeated) or all(old[column] == new[column] for column in IDENTITY)


def read(path: Path | None = None) -> list[dict[str, str]]:
    """Return the rows, oldest first, cells as text; none where there is no file. Raises InputError as `append` does."""
    path = Path(path or ledger_path())
    if not path.exists():
        return []
    try:
        parsed = _parse(path.read_bytes(), path)
    except InputError:  # it may have been read in the middle of another process's write
        with _locked(path):
            parsed = _parse(path.read_bytes(), path)
    return [row for _, row in parsed]


def contains(digest: str, date: str, path: Path | None = None) -> bool:
    """Return whether the run of this digest that finished at `date` stands in the ledger.

    The same settings run again elsewhere, or after their run was removed, are another row.
    """
    return any((row["digest"], row["date"]) == (digest, date) and row["status"] == "ok" for row in read(path))


def find(run_id_prefix: str, rows: list[dict[str, str]]) -> int:
    """Return the index of the newest finished row of ours, no search's trial, whose run id starts so.

    A prefix without a competition is looked for in all of them. Raises SettingError for none or several.
    """
    ids = {row["run_id"]: at for at, row in enumerate(rows) if is_run(row)}
    matches = [i for i in ids if i.startswith(run_id_prefix) or i.partition("/")[2].startswith(run_id_prefix)]
    if run_id_prefix in ids:
        matches = [run_id_prefix]
    if len(matches) != 1:
        said = "several runs start with" if matches else "no finished run starts with"
        raise SettingError(f"ledger: {said} '{run_id_prefix}'" + (
            f": {', '.join(sorted(matches)[:10])}" if matches else nearest(run_id_prefix, ids)))
    return ids[matches[0]]


def describe_shift(run_id: str, shifted: float, conditions: str, path: Path | None = None) -> dict[str, str]:
    """Fill the accuracies of a run under degraded conditions, and return its row; no other byte changes.

    shifted: the accuracy to expect of a test set from other sessions. conditions: that of each condition, as text.
    """
    path = Path(path or ledger_path())
    with _locked(path):
        parsed = _parse(path.read_bytes(), path) if path.exists() else []
        at = find(run_id, [row for _, row in parsed])
        row = parsed[at][1] | {"shifted": to_cell("shifted", shifted), "conditions": conditions}
        _replace(path, parsed, at, row)
    return row


def score(
    run_id_prefix: str,
    public: float | None = None,
    private: float | None = None,
    kind: str = "kaggle",
    path: Path | None = None,
    replace: bool = False,
) -> dict[str, str]:
    """Fill the scores of a run that stands in the ledger, and return its row; no other byte changes.

    A score that is there and differs is kept, and SettingError raised, unless `replace` is given.
    """
    path = Path(path or ledger_path())
    given = {column: to_cell(column, value) for column, value in (("public", public), ("private", private))
             if value is not None}
    if not given or "" in given.values():
        raise SettingError("ledger score: give --public, --private or both, as finite numbers such as 0.87150")
    with _locked(path):
        parsed = _parse(path.read_bytes(), path) if path.exists() else []
        at = find(run_id_prefix, [row for _, row in parsed])
        old = parsed[at][1]
        if not replace:
            words = [word for column, new in given.items() for word in (f"--{column}", new)]
            instead = f"`bash run.sh ledger score {old['run_id']} {' '.join(words)} --kind {kind} --replace`"
            if old["score_kind"] not in ("", kind):
                raise SettingError(f"ledger: {old['run_id']} has a {old['score_kind']} score, not a {kind} one; "
                                   f"{instead} puts the new one in its place")
            for column, new in given.items():
                if old[column] and float(old[column]) != float(new):
                    raise SettingError(f"ledger: {old['run_id']} has the {old['score_kind']} {column} score "
                                       f"{old[column]}, not {new}; {instead} if the new one is right")
        if old["score_kind"] != kind:
            given = {"public": "", "private": "", **given}  # no half of one kind beside a half of another
        row = {**old, **given, "score_kind": kind}
        _replace(path, parsed, at, row)
    return row


def _replace(path: Path, parsed: list[tuple[bytes, dict[str, str]]], at: int, row: dict[str, str]) -> None:
    """Write the file with another row in the place of one; raises SettingError for a row that is not right."""
    if problem := problem_of([*row.values()]):
        raise SettingError(f"ledger: {problem}")
    if row != parsed[at][1]:
        records = [record for record, _ in parsed]
        records[at] = _line(row.values())
        with atomic_open(path, "wb") as file:
            file.write(_line(COLUMNS) + b"".join(records))


def is_run(row: dict[str, str]) -> bool:
    """Return whether a row is of a finished run of ours; a trial has neither weights nor a submission."""
    return bool(row["run_id"]) and row["source"] == "ours" and row["status"] == "ok" and row["stage"] != "tune"


def _locked(path: Path) -> "AbstractContextManager[None]":
    return lock(path.with_name(f".{path.name}.lock"))


def _line(cells: Iterable[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _parse(data: bytes, path: Path) -> list[tuple[bytes, dict[str, str]]]:
    """Return each row's bytes and cells; raises InputError naming the first line that is not as this file writes it."""
    records, rest, line = [], b"", 1  # a newline inside quotes does not end a record
    for number, piece in enumerate(io.BytesIO(data), start=1):
        line = line if rest else number
        rest += piece
        if piece.endswith(b"\n") and rest.count(b'"') % 2 == 0:
            records.append((line, rest))
            rest = b""
    remedy = f"Nothing was changed. See `git diff {path.name}`, mend the line, or restore the file with " \
             f"`git checkout {path.name}` (that drops rows that are not committed)"
    for number, record in records:
        if b"\r" in record:
            raise InputError(f"{path}, line {number}: a carriage return, so another program saved it. "
                             f"`perl -pi -e 's/\\r$//' {shlex.quote(str(path))}` takes all of them away. {remedy}")
    if records and records[0][1] != _line(COLUMNS):
        raise InputError(f"{path}, line 1: the header is not the one that this version writes, {','.join(COLUMNS)}. "
                         f"{remedy}")
    rows = []
    for number, record in records[1:]:
        cells, problem = _cells(record)
        if problem:
            raise InputError(f"{path}, line {number}: {problem}; edited by hand? {remedy}")
        rows.append((record, dict(zip(COLUMNS, cells))))
    start = len(data) - len(rest)
    truncate = f"`truncate -s {start} {shlex.quote(str(path))}`"
    if b"\n" in rest:
        raise InputError(f"{path}, line {line}: a quote is opened here and never closed, up to the file's end at byte "
                         f"{len(data)}. If all that is one row that a kill cut off, {truncate} deletes it; if other "
                         f"rows follow it, close the quote. {remedy}")
    if rest:
        cells, problem = _cells(rest)
        whole = "" if problem else (f". If its note, {cells[-1]!r}, is whole, an editor took the newline away: "
                                    f"`echo >> {shlex.quote(str(path))}` gives it back")
        raise InputError(
            f"{path}, line {line}: torn: bytes {start} to {len(data)} ({rest[:40].decode(errors='replace')!r}…) do not "
            f"end in a newline; a write was cut off. Nothing was changed, and the {len(rows)} rows before are whole. "
            f"Delete the torn line with {truncate}; its run's command, run again, appends the row{whole}")
    return rows


def _cells(record: bytes) -> tuple[list[str], str]:
    """Return a record's cells and what is wrong with them, or ""."""
    try:
        cells = next(csv.reader(io.StringIO(record.decode(), newline=""), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        return [], f"not a line of UTF-8 CSV ({error})"
    return cells, problem_of(cells)
