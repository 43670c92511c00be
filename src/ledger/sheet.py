"""The ledger's bytes: read as rows whatever program saved them, and changed in no other byte than is needed.

A record is one row's bytes, up to a newline that no quote encloses. A spreadsheet or pandas may have written a
byte-order mark, CR LF, more or fewer quotes, 100.0 for 100, an index column, or no last newline: all of that is read,
and stays as it is. The file of an older version lacks columns: they are empty, and get their place when a row is added.
Anything else that is not as the ledger writes it is an InputError that names its line: nothing is guessed.
"""

import csv
import io
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from src.base.errors import InputError, nearest
from src.ledger.row import COLUMNS, TECHNIQUES, problem_of

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
NEEDED = ("source", "run_id", "status")  # every version's header has these
WHOLE = {*TECHNIQUES, "params", "steps", "folds", "seeds"}  # columns where a spreadsheet makes 100.0 of 100
DIGESTS = ("group", "parent_group")  # of 8 hex digits, where a spreadsheet makes 852682 of 00852682
Row = dict[str, str]


@dataclass(frozen=True)
class Sheet:
    """A ledger as it stands in its file: the header's bytes and columns, and each row's bytes and cells.

    header ends in a newline; the last of `records` may lack its own. rows have all of COLUMNS; a file may have more
    columns, without a name.
    """

    header: bytes
    columns: tuple[str, ...]
    records: tuple[bytes, ...] = ()
    rows: tuple[Row, ...] = ()

    @property
    def data(self) -> bytes:
        """The file's content."""
        return self.header + b"".join(self.records)

    def added(self, row: Mapping[str, str]) -> "Sheet":
        """Return the sheet with one more row; what the file holds now is its beginning, unless it lacks columns."""
        sheet = self if set(COLUMNS) <= set(self.columns) else self.whole()
        newline = b"\r\n" if sheet.header.endswith(b"\r\n") else b"\n"
        missing = newline if sheet.records and not sheet.records[-1].endswith(b"\n") else b""
        record = missing + b",".join(_field(row.get(column, "")) for column in sheet.columns) + newline
        return replace(sheet, records=(*sheet.records, record), rows=(*sheet.rows, dict(row)))

    def whole(self) -> "Sheet":
        """Return the sheet with all of COLUMNS, those that it lacks empty and each behind the one before it."""
        columns = list(self.columns)
        for at, column in enumerate(COLUMNS):
            if column not in columns:
                columns.insert(columns.index(COLUMNS[at - 1]) + 1 if at else 0, column)
        has = [column in self.columns for column in columns]

        def widened(record: bytes, blanks: Iterable[bytes]) -> bytes:
            fields, end = _split(record)
            there = iter(fields)
            return b",".join(next(there) if is_there else blank for is_there, blank in zip(has, blanks)) + end

        names = [column.encode() for column in columns]
        return replace(self, columns=tuple(columns), header=widened(self.header, names),
                       records=tuple(widened(record, [b""] * len(has)) for record in self.records))

    def changed(self, at: int, cells: Mapping[str, str]) -> "Sheet":
        """Return the sheet with other cells {column: text} in one row; no other byte differs."""
        cells = {column: text for column, text in cells.items() if text != self.rows[at][column]}
        sheet = self if set(cells) <= set(self.columns) else self.whole()
        fields, end = _split(sheet.records[at])
        for column, text in cells.items():
            fields[sheet.columns.index(column)] = _field(text)
        records, rows = list(sheet.records), list(sheet.rows)
        records[at], rows[at] = b",".join(fields) + end, rows[at] | cells
        return replace(sheet, records=tuple(records), rows=tuple(rows))


def parse(data: bytes, path: Path) -> Sheet:
    """Return the sheet of a ledger's bytes; raises InputError naming the first line that cannot be read."""
    if not data:
        return Sheet(",".join(COLUMNS).encode() + b"\n", COLUMNS)
    (_, header), *lines = _records(data, path)
    columns = _columns(header, path)
    rows, start = [], len(header)
    for number, record in lines:
        row, problem = _row(record, columns)
        if problem:
            raise InputError(_torn(path, number, start, record, len(rows)) if not record.endswith(b"\n") else
                             f"{path}, line {number}: {problem}; edited by hand? {_remedy(path)}")
        rows.append(row)
        start += len(record)
    header = header if header.endswith(b"\n") else header + b"\n"
    return Sheet(header, columns, tuple(record for _, record in lines), tuple(rows))


def _records(data: bytes, path: Path) -> list[tuple[int, bytes]]:
    """Return each record with its line's number; raises InputError for a quote that is never closed."""
    records, rest, line = [], b"", 1  # a newline inside quotes does not end a record
    for number, piece in enumerate(io.BytesIO(data), start=1):
        line = line if rest else number
        rest += piece
        if piece.endswith(b"\n") and rest.count(b'"') % 2 == 0:
            records.append((line, rest))
            rest = b""
    if rest and rest.count(b'"') % 2:
        start = len(data) - len(rest)
        if b"\n" not in rest:
            raise InputError(_torn(path, line, start, rest, len(records) - 1))
        raise InputError(
            f"{path}, line {line}: a quote is opened here and never closed, up to the file's end at byte {len(data)}. "
            f"If all that is one row that a kill cut off, `truncate -s {start} {shlex.quote(str(path))}` deletes it; "
            f"if other rows follow it, close the quote. {_remedy(path)}")
    return [*records, (line, rest)] if rest else records


def _columns(header: bytes, path: Path) -> tuple[str, ...]:
    """Return the header's columns; raises InputError for one that is no ledger's."""
    cells, problem = _cells(header.removeprefix(BYTE_ORDER_MARK))
    names = [name for name in cells if name and not name.startswith("Unnamed: ")]  # an index or empty cells behind
    unknown = [name for name in names if name not in COLUMNS]
    missing = [name for name in NEEDED if name not in names]
    if not problem and len(cells) == 1 and set(";\t") & set(cells[0]):
        problem = "its cells are parted by semicolons or tabs; save it with commas"
    elif not problem and (unknown or len(set(names)) < len(names)):
        problem = f"it repeats a column: {','.join(names)}"
        if unknown:
            problem = f"no column is called '{unknown[0]}'{nearest(unknown[0], COLUMNS)}"
    elif not problem and missing:
        problem = f"it lacks the column '{missing[0]}'"
    if problem:
        raise InputError(f"{path}, line 1: not the header of a ledger: {problem}. {_remedy(path)}")
    return tuple(cells)


def _row(record: bytes, columns: tuple[str, ...]) -> tuple[Row, str]:
    """Return a record's cells by COLUMNS, as this version writes them, and what is wrong with them, or ""."""
    cells, problem = _cells(record)
    if not problem and len(cells) != len(columns):
        problem = f"{len(cells)} fields, not {len(columns)}"
    found = dict.fromkeys(COLUMNS, "")
    for column, cell in zip(columns, cells):
        if column in found:
            text = cell.replace("\r\n", "\n").replace("\r", "\n")
            if column in WHOLE or column in DIGESTS:
                text = re.sub(r"\A(-?\d+)\.0+\Z", r"\1", text)
            if column in DIGESTS and text.isdigit():
                text = text.zfill(8)
            found[column] = text
    return found, problem or problem_of(found)


def _cells(record: bytes) -> tuple[list[str], str]:
    """Return a record's cells and why it is none, or ""."""
    try:
        rows = list(csv.reader(io.StringIO(record.decode(), newline=""), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        return [], f"not a line of UTF-8 CSV ({error})"
    if len(rows) != 1 or len(_split(record)[0]) != max(1, len(rows[0])):
        return [], "a carriage return or a quote stands in a cell that is not quoted; save it with LF or CR LF"
    return rows[0], ""


def _split(record: bytes) -> tuple[list[bytes], bytes]:
    """Return a record's cells as they are written, quotes included, and the newline that ends it, or b""."""
    end = b"\r\n" if record.endswith(b"\r\n") else b"\n" if record.endswith(b"\n") else b""
    fields: list[bytes] = []
    for piece in record.removesuffix(end).split(b","):
        if fields and fields[-1].count(b'"') % 2:
            fields[-1] += b"," + piece
        else:
            fields.append(piece)
    return fields, end


def _field(text: str) -> bytes:
    """Return one cell as it is written."""
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="").writerow(["", text])  # a cell alone would be quoted where it is empty
    return line.getvalue()[1:].encode()


def _torn(path: Path, line: int, start: int, rest: bytes, num_whole: int) -> str:
    return (f"{path}, line {line}: torn: bytes {start} to {start + len(rest)} ({rest[:40].decode(errors='replace')!r}…)"
            f" are no whole row and do not end in a newline; a write was cut off. Nothing was changed, and the "
            f"{num_whole} rows before are whole. Delete the torn line with `truncate -s {start} "
            f"{shlex.quote(str(path))}`; its run's command, run again, appends the row")


def _remedy(path: Path) -> str:
    return (f"Nothing was changed. See `git diff {path.name}`, mend the line, or restore the file with `git checkout "
            f"{path.name}` (that drops rows that are not committed)")
