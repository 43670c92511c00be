"""The columns of the ledger's table: what each shows of a group of runs, as text and as a number to sort by.

In: a group, its part of the table. Out: cells. A column that is none of these is one of the ledger's own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from src.base.errors import SettingError, nearest
from src.ledger.baselines import Line, stand
from src.ledger.groups import Group, effect
from src.ledger.row import COLUMNS, NUMBERS

FEW = 4  # changes that are shown whole; of more those are left out that a column of their own shows
OWN_COLUMN = {"encoder", "encoder.num_layers", "encoder.num_heads", "encoder.d_model", "encoder.dropout", "pooling",
              "embedding.batch_norm", "head", "head.scale", "head.margin", "train.batch_size", "train.steps", "folds"}
FIGURES = ("train", "valid", "shifted", "public", "private")


@dataclass(frozen=True)
class Part:
    """A part of the table: the groups of one competition's data and metric, and its grading lines."""

    groups: list[Group]
    lines: tuple[Line, ...] = ()

    @property
    def smaller_is_better(self) -> bool:
        """Whether the metric is an error rate."""
        return any("error" in group.last["metric"] for group in self.groups)


Show = Callable[[Group, Part], str]


@dataclass(frozen=True)
class Column:
    """One column. show: a group's cell. number: what it is sorted by, NaN where it has none; None: sorted as text."""

    name: str
    show: Show
    title: str = ""
    number: Callable[[Group, Part], float] | None = None
    cut_to: int | None = None  # characters that are enough where the terminal is narrow

    @property
    def heading(self) -> str:
        """What stands above it."""
        return self.title or self.name


def find_column(name: str) -> Column:
    """Return a column by its name, its heading or the ledger's own name; raises SettingError for none."""
    for column in SHOWN.values():
        if name in (column.name, column.title):
            return column
    if name not in COLUMNS:
        raise SettingError(f"ledger: no column '{name}'{nearest(name, [*SHOWN, *COLUMNS])}")
    if name in NUMBERS:
        return Column(name, lambda group, _: _number(group.mean(name)), number=lambda group, _: group.mean(name))
    return _own(name)


def changes(group: Group) -> str:
    """Return what a group changed of its parent; of many changes those that no column shows."""
    every = group.last["changed"].split("; ")
    if len(every) <= FEW:
        return group.last["changed"]
    return "; ".join(change for change in every if change.partition(": ")[0] not in OWN_COLUMN)


def _figure(group: Group, column: str) -> str:
    """Return a mean with its deviation; a single score with all the digits it was given with."""
    values, deviation = group.values(column), group.deviation(column)
    if column in ("public", "private") and len(values) == 1:
        return next(row[column] for row in group.rows if row[column] and row["score_kind"] == group.score_kind)
    return (f"{group.mean(column):.4f}" + ("" if math.isnan(deviation) else f" ± {deviation:.4f}")) if values else ""


def _effect(group: Group, part: Part) -> str:
    found = effect(group, part.groups)
    if found is None:
        return ""
    difference, noise = found
    return f"{difference:+.4f}" + (" ?" if math.isnan(noise) else " (no change)" if abs(difference) <= noise else "")


def _past(group: Group, part: Part) -> str:
    standing = stand(part.lines, group.mean("public"), group.mean("private"))
    return standing.past if standing else ""


def _encoder(group: Group, _: Part) -> str:
    row = group.last
    layers = f" x{row['layers']}" if row["layers"] else ""
    heads = f", {row['heads']} heads" if row["heads"] else ""
    return row["encoder"] + layers + heads


def _head(group: Group, _: Part) -> str:
    row = group.last
    return " ".join([row["head"], *(f"{sign} {row[column]}" for sign, column in (("s", "scale"), ("m", "margin"))
                                    if row[column])])


def _params(group: Group, _: Part) -> str:
    return f"{float(group.last['params']) / 1e6:.2f} M" if group.last["params"] else ""


def time_text(seconds: float) -> str:
    """Return a duration in the unit that suits it; "" for NaN."""
    if math.isnan(seconds):
        return ""
    size, unit = (1, "s") if seconds < 120 else (60, "min") if seconds < 7200 else (3600, "h")
    return f"{seconds / size:.{int(unit == 'h')}f} {unit}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _own(name: str, title: str = "") -> Column:
    """Return the column that shows one of the ledger's as it is."""
    return Column(name, lambda group, _: group.last[name], title)


def _mean(name: str) -> Column:
    return Column(name, lambda group, _: _figure(group, name), number=lambda group, _: group.mean(name))


def _is_ours(group: Group) -> bool:
    return group.last["source"] == "ours"


SHOWN = {column.name: column for column in (
    Column("experiment", lambda group, _: group.last["experiment"], cut_to=20),
    Column("by", lambda group, _: group.last["source"]),
    Column("changed", lambda group, _: changes(group), cut_to=20),
    Column("encoder", _encoder),
    _own("d_model"), _own("dropout"), _own("pooling"), _own("batch_norm", title="batch norm"),
    Column("head", _head),
    _own("augment"), _own("batch_size", title="batch"),
    Column("params", _params, number=lambda group, _: group.mean("params")),
    _own("steps"), _own("folds"),
    Column("n", lambda group, _: str(len(group.rows)) if _is_ours(group) else ""),
    _mean("train"), _mean("valid"),
    Column("effect", _effect, "Δ valid", lambda group, part: (effect(group, part.groups) or (math.nan,))[0]),
    _mean("shifted"),
    _own("conditions", title="by condition"),
    _mean("public"), _mean("private"),
    Column("past", _past),
    Column("scored", lambda group, _: "" if group.last["source"] == "published" else group.score_kind),
    Column("time", lambda group, _: time_text(group.mean("seconds")), number=lambda group, _: group.mean("seconds")),
)}
# What a terminal shows, from the column that a narrow one keeps to those that it leaves out first.
USUAL = ("experiment", "valid", "by", "public", "private", "past", "changed", "effect", "n", "shifted", "time", "steps")
