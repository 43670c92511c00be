"""The ledger, ablations.csv: one row per run, written by this file alone.

In: the row of a run that ended (`src.ledger.row`), failed runs too, and later its scores on the leaderboard. Out: a
line that says what changed, what it gave and which command gives it again; `table` and `plot` show them. A writer holds
a lock and first reads the whole file strictly (`src.ledger.sheet`), so that neither two processes nor a hand edit lose
a row. Where the ledger takes none, a run's row goes to ablations.rows.csv next to it. Rows of the source "published"
are a publication's, those of "elsewhere" were added by hand or from Kaggle: neither enters our means.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from src.base.errors import InputError, RunError, SettingError, nearest
from src.base.file_system import open_to_append, sync
from src.base.files import atomic_open, lock
from src.base.workspace import ledger_path
from src.ledger.row import COLUMNS, problem_of, to_cell
from src.ledger.sheet import Row, Sheet, parse

LOCK_S = 30.0  # a writer holds the lock for milliseconds
IDENTITY = ("digest", "date", "status")  # of the end of a run, which one row tells
REPEATED = ("digest", "status", "params", "steps", "folds", "seeds", "metric", "train", "valid")  # of a run done again
SCORES = ("public", "private", "score_kind")


def record(row: Mapping[str, Any]) -> None:
    """Append a run's row once; where the ledger takes none, to the file next to it, and print so.

    A training has cost hours, so that a ledger that is damaged, held by another process or write-protected does not
    stop it.
    """
    path = ledger_path()
    try:
        append(row, path, once=True)
    except (InputError, RunError) as error:
        aside = aside_path(path)
        append(row, aside, once=True)
        print(f"ledger: {error}\n  {row['run_id']}: its row is in {aside} instead; once that is put "
              f"right, `bash run.sh ledger add --from {aside}` brings it in", flush=True)


def append(row: Mapping[str, Any], path: Path | None = None, once: bool = False) -> bool:
    """Append a row (column: value; None and non-finite numbers stay empty), on disk when this returns.

    once: unless the same run stands there, as two processes may both want to write it, or a run of the same settings
    and data that gave the same figures, so that repeating a run changes nothing; scores that its row lacks are filled.
    Returns whether it was appended. Raises SettingError for an unknown column or a value that does not fit, InputError
    when the file as it stands cannot be read (it stays as it is), RunError when the row could not be written (the file
    stays as it was).
    """
    path = Path(path or ledger_path())
    new = _to_row(row)
    with _locked(path):
        data, sheet = _read(path)
        same = [at for at, old in enumerate(sheet.rows) if once and _is_same(old, new)]
        if not same:
            _add(path, data, sheet, new)
        elif new["score_kind"] and not sheet.rows[same[0]]["score_kind"]:
            _write(path, sheet.changed(same[0], {column: new[column] for column in SCORES}))
        return not same


def bring_in(source: Path, path: Path | None = None) -> tuple[int, int]:
    """Append the rows of another ledger file that are not there, and return the numbers of those added and of all.

    The file that `record` keeps rows in is removed afterwards; any other stays. Raises InputError for a file that is
    missing or no ledger.
    """
    path, source = Path(path or ledger_path()), Path(source)
    if source.resolve() == path.resolve():
        raise SettingError(f"ledger add --from {source}: that is the ledger itself")
    if not source.is_file():
        raise InputError(f"{source}: no such file; name one with a ledger's rows")
    is_aside = source.resolve() == aside_path(path).resolve()
    with _locked(source) if is_aside else contextlib.nullcontext():
        rows = _read(source)[1].rows
        num_added = sum(append(row, path, once=True) for row in rows)
        if is_aside:
            source.unlink()
    return num_added, len(rows)


def aside_path(path: Path | None = None) -> Path:
    """Return the file that holds the rows which the ledger could not take."""
    path = Path(path or ledger_path())
    return path.with_name(f"{path.stem}.rows{path.suffix}")


def _to_row(row: Mapping[str, Any]) -> Row:
    """Return a row's cells by COLUMNS; raises SettingError for what does not fit."""
    for key in row:
        if key not in COLUMNS:
            raise SettingError(f"ledger: unknown column '{key}'{nearest(key, COLUMNS)}")
    cells = {column: to_cell(column, row.get(column)) for column in COLUMNS}
    if problem := problem_of(cells):
        raise SettingError(f"ledger: {problem}")
    return cells


def _is_same(old: Row, new: Row) -> bool:
    """Return whether two rows are of one run, or of a run and its exact repetition."""
    if not new["digest"]:
        return old == new
    is_repeated = new["status"] == "ok" and all(old[column] == new[column] for column in REPEATED)
    return is_repeated or all(old[column] == new[column] for column in IDENTITY)


def read(path: Path | None = None) -> list[Row]:
    """Return the rows, oldest first, cells as text; none where there is no file. Raises InputError as `append` does."""
    path = Path(path or ledger_path())
    try:
        return list(_read(path)[1].rows)
    except InputError:  # it may have been read in the middle of another process's write
        with _locked(path):
            return list(_read(path)[1].rows)


def known(path: Path | None = None) -> list[Row]:
    """Return the rows of the ledger, none where it cannot be read, and those of the file next to it."""
    path, rows = Path(path or ledger_path()), []
    for each in (path, aside_path(path)):
        with contextlib.suppress(InputError, RunError):
            rows += read(each)
    return rows


def contains(digest: str, date: str, path: Path | None = None) -> bool:
    """Return whether the run of this digest that finished at `date` stands in the ledger or in the file next to it.

    The same settings run again elsewhere, or after their run was removed, are another row.
    """
    return any((row["digest"], row["date"]) == (digest, date) and row["status"] == "ok" for row in known(path))


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


def describe_shift(run_id: str, shifted: float, conditions: str, path: Path | None = None) -> Row:
    """Fill the accuracies of a run under degraded conditions, and return its row; no other byte changes.

    shifted: the accuracy to expect of a test set from other sessions. conditions: that of each condition, as text.
    """
    path = Path(path or ledger_path())
    with _locked(path):
        sheet = _read(path)[1]
        at = find(run_id, sheet.rows)
        return _replace(path, sheet, at, {"shifted": to_cell("shifted", shifted), "conditions": conditions})


def score(
    run_id_prefix: str,
    public: float | None = None,
    private: float | None = None,
    kind: str = "kaggle",
    path: Path | None = None,
    replace: bool = False,
) -> Row:
    """Fill the scores of a run that stands in the ledger, and return its row; no other byte changes.

    A score that is there and differs is kept, and SettingError raised, unless `replace` is given.
    """
    path = Path(path or ledger_path())
    given = {column: to_cell(column, value) for column, value in (("public", public), ("private", private))
             if value is not None}
    if not given or "" in given.values():
        raise SettingError("ledger score: give --public, --private or both, as finite numbers such as 0.87150")
    with _locked(path):
        sheet = _read(path)[1]
        at = find(run_id_prefix, sheet.rows)
        old = sheet.rows[at]
        if not replace:
            _check_scores(old, given, kind)
        if old["score_kind"] != kind:
            given = {"public": "", "private": "", **given}  # no half of one kind beside a half of another
        return _replace(path, sheet, at, {**given, "score_kind": kind})


def _check_scores(old: Row, given: Mapping[str, str], kind: str) -> None:
    """Raise SettingError where a row has other scores than those given, or scores of another kind."""
    words = [word for column, new in given.items() for word in (f"--{column}", new)]
    instead = f"`bash run.sh ledger score {old['run_id']} {' '.join(words)} --kind {kind} --replace`"
    if old["score_kind"] not in ("", kind):
        raise SettingError(f"ledger: {old['run_id']} has a {old['score_kind']} score, not a {kind} one; "
                           f"{instead} puts the new one in its place")
    for column, new in given.items():
        if old[column] and float(old[column]) != float(new):
            raise SettingError(f"ledger: {old['run_id']} has the {old['score_kind']} {column} score "
                               f"{old[column]}, not {new}; {instead} if the new one is right")


def is_run(row: Row) -> bool:
    """Return whether a row is of a finished run, ours or added; a trial has neither weights nor a submission."""
    return bool(row["run_id"]) and row["source"] != "published" and row["status"] == "ok" and row["stage"] != "tune"


def _read(path: Path) -> tuple[bytes, Sheet]:
    """Return the file's bytes, none where there is no file, and what they say; raises InputError."""
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make it a file that you may read") from error
    return data, parse(data, path)


def _replace(path: Path, sheet: Sheet, at: int, cells: Mapping[str, str]) -> Row:
    """Write the file with other cells in one row, and return it; raises SettingError for a row that is not right."""
    row = sheet.rows[at] | cells
    if problem := problem_of(row):
        raise SettingError(f"ledger: {problem}")
    if row != sheet.rows[at]:
        _write(path, sheet.changed(at, cells))
    return row


def _write(path: Path, sheet: Sheet) -> None:
    with atomic_open(path, "wb") as file:
        file.write(sheet.data)


def _add(path: Path, data: bytes, sheet: Sheet, row: Row) -> None:
    """Append a row to the file of these bytes; one that lacks columns is written anew with all of them."""
    after = sheet.added(row)
    if not after.data.startswith(data):
        return _write(path, after)
    content = after.data[len(data):]
    file = open_to_append(path)
    try:
        if os.write(file, content) != len(content):
            raise OSError("the disk is full")
        sync(file, path)
    except OSError as error:
        os.ftruncate(file, len(data))
        raise RunError(f"{path}: the row of {row['run_id'] or 'a run'} could not be written ({error}); make room and "
                       "run the same command again") from error
    finally:
        os.close(file)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the ledger's lock; raises RunError where it is held for LOCK_S, and for what the file system refuses."""
    try:
        with lock(path.with_name(f".{path.name}.lock"), timeout_s=LOCK_S):
            yield
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error}); end what holds it, or make the file "
                       "and its folder writable") from error
