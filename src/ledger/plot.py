"""The ledger as a picture: accuracy against training time or parameters, a panel for each competition.

In: the ledger's groups of runs. Out: a PNG. Our rows and others' differ in colour and marker; error bars are the sample
deviation over seeds; dashed lines are the grading lines. A filled marker is the validation; on the same line the hollow
one is the leaderboard, the diamond the validation in other sessions: what lies between is what a random split flatters
by.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from src.base.errors import InputError
from src.base.files import atomic_open
from src.ledger.baselines import Line, read_lines
from src.ledger.groups import Group, data_names, groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {"seconds": "training time, minutes (as recorded; machines differ)", "params": "parameters, millions"}
UNIT = {"seconds": 60.0, "params": 1e6}
LOOKS = {"ours": ("#1f5fa8", "o"), "elsewhere": ("#5b8c3a", "^"), "published": ("#c4561b", "s"),
         "trial": ("#9a9a9a", ".")}
NAMED = 24  # as many names as fit beside a panel


def plot(out_png: Path, rows: list[dict[str, str]], against: Literal["seconds", "params"] = "seconds") -> None:
    """Draw ledger rows into `out_png`, atomically. Raises InputError when no finished run has both figures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    data = data_names(rows)
    panels: dict[tuple[str, str], list[Group]] = {}
    for group in groups(rows):
        if group.values(against) and (group.values("valid") or group.values(_test(group))):
            panels.setdefault((data[group.last["competition"]], group.last["metric"]), []).append(group)
    if not panels:
        raise InputError(f"ledger: no finished run has {against} and an accuracy to draw; "
                         "published rows have no parameter counts")
    ours_first = sorted(panels.items(), key=lambda item: all(group.last["source"] != "ours" for group in item[1]))
    num_columns = min(2, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    figure, axes = pyplot.subplots(num_rows, num_columns, figsize=(7.2 * num_columns, 5.6 * num_rows), squeeze=False,
                                   layout="constrained")
    try:
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for axis, ((_, metric), members) in zip(axes.flat, ours_first):
            _panel(axis, members, against)
            if metric == "accuracy":
                _grading_lines(axis, read_lines(members[-1].last["competition"]))
            names = dict.fromkeys(group.last["competition"] for group in members)
            axis.set(title=", ".join(names), xlabel=AXES[against], ylabel=metric)
        with atomic_open(Path(out_png), "wb") as file:
            figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    finally:
        pyplot.close(figure)


def _test(group: Group) -> str:
    return "private" if group.values("private") else "public"


def _panel(axis: "Axes", members: list[Group], against: str) -> None:
    legend: dict[str, object] = {}
    points = []
    for group in members:
        trial = {row["stage"] for row in group.rows} == {"tune"}
        colour, marker = LOOKS["trial" if trial else group.last["source"]]
        x = group.mean(against) / UNIT[against]
        if trial:
            drawn = axis.plot(x, group.mean("valid"), marker, color=colour, zorder=1)[0]
            legend["tried by the search, validation"] = drawn
            continue
        known = [(column, group.mean(column)) for column in ("valid", "shifted", _test(group)) if group.values(column)]
        heights = [value for _, value in known]
        axis.plot([x, x], [min(heights), max(heights)], color=colour, linewidth=0.8, alpha=0.5, zorder=2)
        for column, value in known:
            deviation = group.deviation(column)
            drawn = axis.errorbar(x, value, yerr=None if math.isnan(deviation) else deviation,
                                  fmt="D" if column == "shifted" else marker, color=colour,
                                  markerfacecolor=colour if column == "valid" else "white",
                                  markersize=5 if column == "shifted" else 6.5, capsize=4, zorder=3)
            what = {"valid": "validation", "shifted": "validation, other sessions"}.get(
                column, f"{column} score" + (f" ({group.score_kind})" if group.score_kind != "published" else ""))
            legend.setdefault(f"{group.last['source']}, {what}", drawn)
        points.append((x, heights[0], group.last["experiment"], len(group.rows)))
    if points and max(point[0] for point in points) > 20 * min(point[0] for point in points) > 0:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
    axis.margins(x=0.08, y=0.08)
    axis.grid(alpha=0.25)
    _write_names(axis, points)
    axis.legend(legend.values(), legend.keys(), fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13))


def _grading_lines(axis: "Axes", lines: tuple[Line, ...]) -> None:
    """Draw the grading lines that lie within the panel, each with its name."""
    half = "private" if any(not math.isnan(line.private) for line in lines) else "public"
    low, high = axis.get_ylim()
    for line in lines:
        if low <= line.value(half) <= high:
            axis.axhline(line.value(half), color="#777777", linestyle="--", linewidth=0.8, zorder=1)
            axis.annotate(line.name, (0.01, line.value(half)), xycoords=axis.get_yaxis_transform(), fontsize=7,
                          va="bottom", color="#555555")


def _write_names(axis: "Axes", points: list[tuple[float, float, str, int]]) -> None:
    """Write each experiment's name in a column right of the panel, with a line to its best point; the best of them.

    points: place, height, experiment and number of runs.
    """
    best: dict[str, tuple[float, float, str, int]] = {}
    for point in sorted(points, key=lambda point: -point[1]):
        best.setdefault(point[2], point)
    named = list(best.values())[:NAMED]
    spacing = 1 / NAMED  # of the panel's height
    to_panel = axis.transData + axis.transAxes.inverted()
    axis.autoscale_view()
    heights = [to_panel.transform((x, y))[1] for x, y, _, _ in named]
    for at in range(1, len(heights)):  # from the top down, no two closer than a line of text
        heights[at] = min(heights[at], heights[at - 1] - spacing)
    for at in reversed(range(len(heights))):  # and from the bottom up, none below the panel
        heights[at] = max(heights[at], (len(heights) - 1 - at) * spacing)
    for (x, y, name, num_runs), height in zip(named, heights):
        seeds = f" (n={num_runs})" if num_runs > 1 else ""
        axis.annotate(name + seeds, (x, y), xytext=(1.03, height), textcoords="axes fraction", fontsize=8, va="center",
                      zorder=1, arrowprops={"arrowstyle": "-", "color": "#b5b5b5", "linewidth": 0.6, "shrinkA": 1,
                                            "shrinkB": 4, "relpos": (0, 0.5)})  # from the name's left end
