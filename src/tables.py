"""JSON and CSV files that others wrote, read strictly: every fault is an InputError that names file, key and line."""

import csv
import json
from pathlib import Path
from typing import Any

from src.errors import InputError, nearest


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a UTF-8 file; raises InputError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); fetch the file again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: {shown(content)} is not an object with named keys")
    return content


def get(content: dict[str, Any], key: str, kind: type, path: Path) -> Any:
    """Return content[key], which must be a `kind` (dict, list or int); raises InputError naming `path` and key."""
    if key not in content:
        raise InputError(f"{path}: the key '{key}' is missing")
    if type(content[key]) is not kind:
        noun = {dict: "an object with named keys", list: "a list", int: "a whole number"}[kind]
        raise InputError(f"{path}: {key}: {shown(content[key])} is not {noun}")
    return content[key]


def whole(content: dict[str, Any], key: str, path: Path, least: int) -> int:
    """Return content[key], a whole number of at least `least`; raises InputError naming `path` and key."""
    value = get(content, key, int, path)
    if value < least:
        raise InputError(f"{path}: {key}: {value} is below {least}")
    return value


def read_csv(path: Path, required: tuple[str, ...], optional: tuple[str, ...] | None = None) -> list[dict[str, str]]:
    """Return the rows of a CSV table by column; with `optional` given, other columns are refused.

    Raises InputError for a file that is no CSV, a missing or repeated column, a row of another length, or no rows.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            rows = [row for row in reader if row]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: not a valid UTF-8 CSV table ({error})") from error
    missing = [name for name in required if name not in header]
    unknown = [name for name in header if optional is not None and name not in (*required, *optional)]
    if missing or len(set(header)) != len(header):
        fault = f"lacks {missing[0]}" if missing else "repeats a column"
        raise InputError(f"{path}: the header '{','.join(header)}' {fault}; it needs {', '.join(required)}")
    if unknown:
        raise InputError(f"{path}: unknown column '{unknown[0]}'{nearest(unknown[0], (*required, *optional))}")
    for i, row in enumerate(rows):
        if len(row) != len(header):
            raise InputError(f"{path}: line {i + 2}: {len(row)} fields under {len(header)} columns")
    if not rows:
        raise InputError(f"{path}: the table has no rows")
    return [dict(zip(header, row)) for row in rows]


def some(names: list[str]) -> str:
    """Return the first five names for a message."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def shown(value: Any) -> str:
    """Return a value for a message, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
