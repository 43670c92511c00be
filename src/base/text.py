"""Figures, paths, names and times as people read them."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from src.base.workspace import workspace_dir


def timestamp() -> str:
    """Return this second in UTC as the ledger writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def some(names: list[str]) -> str:
    """Return the first five names for a message; what a terminal would obey or break is escaped."""
    plain = (name if name.isprintable() and len(name) <= 60 else shown(name) for name in names[:5])
    return ", ".join(plain) + (", …" if len(names) > 5 else "")


def shown(value: Any) -> str:
    """Return a value for a message, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def shown_bytes(number: int) -> str:
    """Return a size in decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:,.1f} {unit}" if number < 10 * size else f"{number / size:,.0f} {unit}"
    return f"{number} B"


def shown_time(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def shown_path(path: Path) -> str:
    """Return a path as seen from the workspace, where it lies there."""
    return str(path.relative_to(workspace_dir())) if path.is_relative_to(workspace_dir()) else str(path)


def shown_share(value: float) -> str:
    """Return a share of one with four digits; "-" where it is not a number."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def shown_count(number: float) -> str:
    """Return a count in thousands or millions where it is so large."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:  # 999,700 is 1 M, not 1e+03 k
            return f"{number / size:.3g} {unit}"
    return f"{number:g}"


def aligned(rows: Sequence[Sequence[str]], right: set[int]) -> str:
    """Return rows as lines with their columns aligned, those numbered in `right` to the right; empty ones left out."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  " + "  ".join(cell.rjust(width) if at in right else cell.ljust(width)
                                      for at, (cell, width) in enumerate(zip(row, widths)) if width).rstrip()
                     for row in rows)
