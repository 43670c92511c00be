"""The ledger as a table: one line for each settings that were run, with mean and deviation over their seeds.

In: the ledger's rows. Out: Markdown or plain text, a part for each competition, ours and the published rows apart;
`write_into` puts it between the README's markers. `groups` is what the picture draws too.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from src.base.errors import InputError
from src.base.files import atomic_open

SAME = ("source", "competition", "metric", "steps", "folds")  # what rows must share to be compared at all
FEW = 4  # changes that are shown whole; of more those are left out that a column of their own shows
OWN_COLUMN = {"encoder", "encoder.num_layers", "encoder.num_heads", "encoder.d_model", "encoder.dropout", "pooling",
              "embedding.batch_norm", "head", "head.scale", "head.margin", "train.batch_size", "train.steps", "folds"}
BEGIN, END = "<!-- ledger:begin -->", "<!-- ledger:end -->"


@dataclass(frozen=True)
class Group:
    """Finished runs of the same settings on the same competition, one row a seed; a published row is alone."""

    rows: tuple[dict[str, str], ...]

    @property
    def last(self) -> dict[str, str]:
        """The newest row, for the cells that all rows share."""
        return self.rows[-1]

    @property
    def score_kind(self) -> str:
        """The kind of the scores shown: a Kaggle score before a local one, never both in a mean."""
        return max((row["score_kind"] for row in self.rows), key=lambda kind: (kind == "kaggle", kind))

    def values(self, column: str) -> list[float]:
        """Return a column's numbers; for public and private only those of `score_kind`."""
        rows = self.rows
        if column in ("public", "private"):
            rows = tuple(row for row in rows if row["score_kind"] == self.score_kind)
        return [float(row[column]) for row in rows if row[column]]

    def mean(self, column: str) -> float:
        """Return the mean of a column, NaN where no row has it."""
        values = self.values(column)
        return statistics.fmean(values) if values else math.nan

    def deviation(self, column: str) -> float:
        """Return the sample standard deviation of a column over the seeds, NaN for fewer than two."""
        values = self.values(column)
        return statistics.stdev(values) if len(values) > 1 else math.nan


def groups(rows: list[dict[str, str]]) -> list[Group]:
    """Return the finished runs by settings, in order of first appearance.

    A seed that was run again (on other code) counts once, with its newest row, which keeps the older row's scores where
    it is the same run and has none of its own. A search's trials, chosen among many, are groups of their own. Published
    rows, and blends of several runs, stay alone.
    """
    found: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for at, row in enumerate(rows):
        if row["status"] == "ok":
            joins = row["source"] == "ours" and row["group"] and row["stage"] != "ensemble"
            is_trial = row["stage"] == "tune"
            key = (*(row[column] for column in SAME), row["group"], str(is_trial)) if joins else (str(at),)
            older = found.setdefault(key, {}).pop(row["seeds"], None)
            if older and older["digest"] == row["digest"]:
                row = _keeping(older, row, ("public", "private", "score_kind"))
                row = _keeping(older, row, ("shifted", "conditions"))
            found[key][row["seeds"]] = row
    return [Group(tuple(by_seed.values())) for by_seed in found.values()]


def _keeping(older: dict[str, str], row: dict[str, str], columns: tuple[str, ...]) -> dict[str, str]:
    """Return `row` with an older row's cells in these columns, unless it has any of them itself."""
    return row if any(row[column] for column in columns) else row | {column: older[column] for column in columns}


def effect(group: Group, every: list[Group], column: str = "valid") -> tuple[float, float] | None:
    """Return a group's difference to its parent and the noise of that difference; None without a parent to compare.

    The noise is twice the standard error of the difference of two means. Its deviation over seeds is pooled from the
    two groups, or else that of the group with the most seeds among those of the same competition, steps and folds, the
    nearest in accuracy where several have as many; NaN where nothing was run on two seeds.
    """
    same = [other for other in every if all(other.last[column] == group.last[column] for column in SAME)]
    same.sort(key=lambda other: other.last["stage"] == "tune")  # a run stands before a trial of the same settings
    parent = next((other for other in same if group.last["parent_group"] and other is not group
                   and other.last["group"] == group.last["parent_group"]), None)
    if parent is None or not parent.values(column) or not group.values(column):
        return None
    pooled = [item for item in (group, parent) if len(item.values(column)) > 1]
    pooled = pooled or [max(same, key=lambda other: (len(other.values(column)),
                                                     -abs(other.mean(column) - group.mean(column))))]
    freedom = sum(len(item.values(column)) - 1 for item in pooled)
    variance = sum(item.deviation(column) ** 2 * (len(item.values(column)) - 1) for item in pooled)
    noise = math.nan
    if freedom:
        noise = 2 * math.sqrt(variance / freedom * (1 / len(group.values(column)) + 1 / len(parent.values(column))))
    return group.mean(column) - parent.mean(column), noise


def table(rows: list[dict[str, str]], format: Literal["markdown", "text"] = "markdown") -> str:
    """Return the ablation table of ledger rows, as `ledger.read` returns them. Raises InputError for none."""
    if not rows:
        raise InputError("ledger: no row to show yet; a run appends one: `bash run.sh`")
    keys = dict.fromkeys((row["source"], row["competition"], row["metric"]) for row in rows)
    return "\n".join(
        _part(*key, [row for row in rows if (row["source"], row["competition"], row["metric"]) == key], format)
        for source in ("ours", "published") for key in keys if key[0] == source
    )


def write_into(readme_path: Path, rows: list[dict[str, str]]) -> None:
    """Put the table of ledger rows between a file's markers, atomically; raises InputError where they are missing."""
    try:
        text = Path(readme_path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"{readme_path}: cannot be read ({said})") from error
    if not (text.count(BEGIN) == text.count(END) == 1 and text.index(BEGIN) < text.index(END)):
        raise InputError(f"{readme_path}: put one line {BEGIN} and, below it, one line {END} where the table belongs")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    with atomic_open(Path(readme_path)) as file:
        file.write(f"{before}{BEGIN}\n{table(rows)}{END}{after}")


def _part(source: str, competition: str, metric: str, rows: list[dict[str, str]], format: str) -> str:
    every = groups(rows)
    trials = [group for group in every if {row["stage"] for row in group.rows} == {"tune"}]
    listed = [group for group in every if group not in trials]
    bold = "**" if format == "markdown" else ""
    if source == "ours":
        counts = Counter(row["status"] for row in rows)
        said = ", ".join(f"{counts[status]} {status}" for status in ("failed", "pruned") if counts[status])
        about = f"{len(rows)} runs{f', {said}' if said else ''}; mean ± deviation over n seeds"
    else:
        about = "single runs by others, in no mean of ours"
    lines = [f"{bold}{competition}, {source}{bold} ({metric}; {about})"]
    if listed:
        cells = [{name: show(group, every) for name, show in SHOWN.items()} for group in listed]
        names = [name for name in SHOWN if any(row[name] for row in cells)]
        lines += ["", *_grid([names, *([row[name] for name in names] for row in cells)], format)]
    if trials:
        best = max((group for group in trials if group.values("valid")), key=lambda group: group.mean("valid"),
                   default=trials[0])
        lines += ["", f"Not listed: {len(trials)} settings that the search tried; "
                  f"the best, {best.last['run_id']}, has valid {_mean(best, 'valid') or 'unknown'}."]
    if any(_changed(group.last) != group.last["changed"] for group in listed):
        lines += ["", f"changed: of more than {FEW} changes those are left out that another column shows; the ledger "
                  "has them all."]
    if any(effect(group, every) for group in listed):
        lines += ["", 'Δ valid: the difference to the parent at equal steps and folds; "no change" where it lies '
                  'within twice its standard error, "?" where nothing was run on two seeds to tell.']
    return "\n".join(lines) + "\n"


def _grid(cells: list[list[str]], format: str) -> list[str]:
    if format == "markdown":
        lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in cells]
        return [lines[0], "|" + "---|" * len(cells[0]), *lines[1:]]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return ["  ".join(cell.replace("\n", " ").ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in cells]


def _mean(group: Group, column: str) -> str:
    if not group.values(column):
        return ""
    deviation = group.deviation(column)
    return f"{group.mean(column):.4f}" + ("" if math.isnan(deviation) else f" ± {deviation:.4f}")


def _score(group: Group, column: str) -> str:
    """Return a leaderboard score; a single one with all the digits it was given with."""
    return _mean(group, column) if len(group.values(column)) != 1 else \
        next(row[column] for row in group.rows if row[column] and row["score_kind"] == group.score_kind)


def _effect(group: Group, every: list[Group]) -> str:
    found = effect(group, every)
    if found is None:
        return ""
    difference, noise = found
    return f"{difference:+.4f}" + (" ?" if math.isnan(noise) else " (no change)" if abs(difference) <= noise else "")


def _changed(row: dict[str, str]) -> str:
    changes = row["changed"].split("; ")
    if len(changes) <= FEW:
        return row["changed"]
    return "; ".join(change for change in changes if change.partition(": ")[0] not in OWN_COLUMN)


def _encoder(row: dict[str, str]) -> str:
    layers = f" x{row['layers']}" if row["layers"] else ""
    heads = f", {row['heads']} heads" if row["heads"] else ""
    return row["encoder"] + layers + heads


def _head(row: dict[str, str]) -> str:
    return " ".join([row["head"], *(f"{sign} {row[column]}" for sign, column in (("s", "scale"), ("m", "margin"))
                                    if row[column])])


def _params(row: dict[str, str]) -> str:
    return f"{float(row['params']) / 1e6:.2f} M" if row["params"] else ""


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
    size, unit = (1, "s") if seconds < 120 else (60, "min") if seconds < 7200 else (3600, "h")
    return f"{seconds / size:.{int(unit == 'h')}f} {unit}"


SHOWN: dict[str, Callable[[Group, list[Group]], str]] = {  # heading -> cell; one that is empty everywhere is left out
    "experiment": lambda group, _: group.last["experiment"],
    "changed": lambda group, _: _changed(group.last),
    "encoder": lambda group, _: _encoder(group.last),
    "d_model": lambda group, _: group.last["d_model"],
    "dropout": lambda group, _: group.last["dropout"],
    "pooling": lambda group, _: group.last["pooling"],
    "batch norm": lambda group, _: group.last["batch_norm"],
    "head": lambda group, _: _head(group.last),
    "augment": lambda group, _: group.last["augment"],
    "batch": lambda group, _: group.last["batch_size"],
    "params": lambda group, _: _params(group.last),
    "steps": lambda group, _: group.last["steps"],
    "folds": lambda group, _: group.last["folds"],
    "n": lambda group, _: str(len(group.rows)) if group.last["source"] == "ours" else "",
    "train": lambda group, _: _mean(group, "train"),
    "valid": lambda group, _: _mean(group, "valid"),
    "Δ valid": _effect,
    "shifted": lambda group, _: _mean(group, "shifted"),
    "by condition": lambda group, _: group.last["conditions"],
    "public": lambda group, _: _score(group, "public"),
    "private": lambda group, _: _score(group, "private"),
    "scored": lambda group, _: group.score_kind if group.last["source"] == "ours" else "",
    "time": lambda group, _: _time(group.mean("seconds")),
}
