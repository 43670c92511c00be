"""A run's log as curves: log.csv in, a PNG with one panel for each kind of figure out."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from src.base.files import atomic_open

COLUMNS, WIDTH, HEIGHT = 4, 3.8, 2.8  # panels a row; inches of a panel


def draw(log_path: Path, picture_path: Path, panels: Mapping[str, Sequence[str]], title: str) -> None:
    """Write a PNG of the panels {title: columns of the log}, against steps; columns that the log lacks are left out."""
    with open(log_path, encoding="utf-8", newline="") as file:
        log = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in log]
    rows, columns = -(-len(panels) // COLUMNS), min(COLUMNS, len(panels))
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, (name, figures) in zip(grid.flat, panels.items()):
        drawn = [column for column in figures if column in log[0]]
        for column in drawn:
            axes.plot(steps, [float(row[column]) for row in log], marker=".", markersize=3,
                      label=column.replace("_", " "))
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if len(drawn) > 1:
            axes.legend(fontsize="small")
    figure.suptitle(title)
    figure.tight_layout()
    with atomic_open(picture_path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
