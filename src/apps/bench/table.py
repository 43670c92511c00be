"""The table that `python -m src bench` prints: a row a thing that was measured, and the rows as lines."""

import math
import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Row:
    """A line of the table: one thing, measured several times.

    unit: of the measurements, such as "crops/s". num_utterances: that a pass covers, 0 where there are no passes.
    beside: the rows whose median this one's is divided by, under the names that the table gives them. flops: of one
    unit; matrix_row: the matrix product's, in TFLOP/s, whose part they are said as.
    """

    stage: str
    what: str
    unit: str
    num_utterances: int = 0
    values: list[float] = field(default_factory=list)
    peak_mb: float = 0.0
    beside: dict[str, "Row"] = field(default_factory=dict)
    flops: float = 0.0
    matrix_row: "Row | None" = None

    @property
    def median(self) -> float:
        """Return the median of the measurements."""
        return statistics.median(self.values)

    @property
    def ratios(self) -> dict[str, float]:
        """Return the median as a multiple of those of the rows beside."""
        return {name: self.median / row.median for name, row in self.beside.items()}

    @property
    def part_of_matrix_rate(self) -> float | None:
        """Return which part of the matrix product's rate this row's operations reach; None where none are counted."""
        return self.median * self.flops / 1e12 / self.matrix_row.median if self.matrix_row else None

    def add(self, value: float, peak_mb: float) -> None:
        """Add a measurement and the peak memory so far."""
        self.values.append(value)
        self.peak_mb = max(self.peak_mb, peak_mb)

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return {"stage": self.stage, "what": self.what, "unit": self.unit, "num_utterances": self.num_utterances,
                "median": self.median, "low": min(self.values), "high": max(self.values), "values": self.values,
                "peak_mb": self.peak_mb, "ratios": self.ratios, "flops": self.flops,
                "part_of_matrix_rate": self.part_of_matrix_rate}


def table(rows: list[Row]) -> list[str]:
    """Return the measurements as aligned lines: median, lowest, highest, ratios of medians, peak memory."""
    cells = [("stage", "what", "median", "lowest", "highest", "", "peak MB", "beside")]
    for row in rows:
        said = [f"{ratio:.3g} x {name}" for name, ratio in row.ratios.items()]
        if row.part_of_matrix_rate is not None:
            said.append(f"{row.part_of_matrix_rate:.1%} of the matrix product")
        cells.append((row.stage, row.what, *map(_number, (row.median, min(row.values), max(row.values))), row.unit,
                      f"{row.peak_mb:,.0f}" if row.peak_mb else "", ", ".join(said)))
    widths = [max(map(len, column)) for column in zip(*cells)]
    right = (False, False, True, True, True, False, True, False)
    return ["  ".join(cell.rjust(width) if is_right else cell.ljust(width)
                      for cell, width, is_right in zip(line, widths, right)).rstrip() for line in cells]


def _number(value: float) -> str:
    """Return a positive number with three digits or all of its whole ones."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"
