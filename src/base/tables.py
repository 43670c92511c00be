"""JSON and CSV files that others wrote, read strictly: every fault is an InputError that names file, key and line."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

from src.base.errors import InputError, nearest
from src.base.text import shown


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a UTF-8 file; raises InputError for anything else, and for a key that stands twice."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_named_once)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fetch the file again") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); fetch the file again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: {shown(content)} is not an object with named keys; fetch the file again")
    return content


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; json itself would keep the last of two equal keys and say nothing."""
    content = dict(pairs)
    if len(content) != len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {shown(twice)} stands there twice")
    return content


def get(content: dict[str, Any], key: str, kind: type, path: Path) -> Any:
    """Return content[key], which must be a `kind` (dict, list or int); raises InputError naming `path` and key."""
    if key not in content:
        raise InputError(f"{path}: the key '{key}' is missing; fetch the file again")
    if type(content[key]) is not kind:
        noun = {dict: "an object with named keys", list: "a list", int: "a whole number"}[kind]
        raise InputError(f"{path}: {key}: {shown(content[key])} is not {noun}; fetch the file again")
    return content[key]


def whole(content: dict[str, Any], key: str, path: Path, least: int) -> int:
    """Return content[key], a whole number of at least `least`; raises InputError naming `path` and key."""
    value = get(content, key, int, path)
    if value < least:
        raise InputError(f"{path}: {key}: {value} is below {least}; fetch the file again")
    return value


def read_csv(path: Path, required: tuple[str, ...],
             optional: tuple[str, ...] | None = None) -> dict[int, dict[str, str]]:
    """Return {line, from 1: row by column} of a CSV table without its empty lines; `optional` refuses other columns.

    Raises InputError for a file that is no CSV, a missing or repeated column, a row of another length, or no rows.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            rows, line = {}, reader.line_num + 1
            for row in reader:
                if row:
                    rows[line] = row
                line = reader.line_num + 1  # where the next row begins: a quoted field may hold lines
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fetch the file again") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: not a valid UTF-8 CSV table ({error}); mend it, or fetch it again") from error
    missing = [name for name in required if name not in header]
    unknown = [name for name in header if optional is not None and name not in (*required, *optional)]
    if missing or len(set(header)) != len(header):
        fault = f"lacks {missing[0]}" if missing else "repeats a column"
        if missing and len(header) == 1 and set(";\t") & set(header[0]):
            fault += " (its cells are parted by semicolons or tabs: save it with commas)"
        wanted = f"it needs {', '.join(required)}" if required else "give each a name of its own"
        raise InputError(f"{path}: the header {shown(','.join(header))} {fault}; {wanted}")
    if unknown:
        raise InputError(f"{path}: unknown column {shown(unknown[0])}{nearest(unknown[0], (*required, *optional))}")
    for line, row in rows.items():
        if len(row) != len(header):
            raise InputError(f"{path}: line {line}: {len(row)} fields under {len(header)} columns; mend it, or fetch "
                             "the file again")
    if not rows:
        raise InputError(f"{path}: the table has no rows; fetch the file again")
    return {line: dict(zip(header, row)) for line, row in rows.items()}


def header_of(path: Path) -> list[str]:
    """Return the first line of a table of commas or tabs, or nothing where there is no text to read."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline(1 << 16).rstrip("\r\n")
    except (OSError, ValueError):
        return []
    return next(csv.reader([first], delimiter="\t" if "\t" in first else ","), [])
