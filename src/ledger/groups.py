"""The ledger's rows by settings: one group for each that was run, its means over seeds, and what it is a change of.

In: the ledger's rows. Out: groups, which the table and the picture show, and a group's difference to its parent with
the noise of that difference.
"""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from src.base.errors import SettingError, nearest
from src.competition.open import COURSE, is_course
from src.ledger.row import TECHNIQUES

SAME = ("source", "competition", "metric", "steps", "folds")  # what rows must share to be compared at all


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


def data_names(rows: Iterable[dict[str, str]]) -> dict[str, str]:
    """Return {competition: the name under which the rows of its data stand together}.

    The course's data is called as its folder is, and its published rows as Kaggle calls it.
    """
    return {name: COURSE if is_course(name) else name for name in {row["competition"] for row in rows}}


def _keeping(older: dict[str, str], row: dict[str, str], columns: tuple[str, ...]) -> dict[str, str]:
    """Return `row` with an older row's cells in these columns, unless it has any of them itself."""
    return row if any(row[column] for column in columns) else row | {column: older[column] for column in columns}


def effect(group: Group, every: list[Group], column: str = "valid") -> tuple[float, float] | None:
    """Return a group's difference to its parent and the noise of that difference; None without a parent to compare.

    The noise is twice the standard error of the difference of two means. Its deviation over seeds is pooled from the
    two groups, or else that of the group with the most seeds among those of the same competition, steps and folds, the
    nearest in accuracy where several have as many; NaN where nothing was run on two seeds.
    """
    parent = parent_of(group, every)
    if parent is None or not parent.values(column) or not group.values(column):
        return None
    pooled = [item for item in (group, parent) if len(item.values(column)) > 1]
    pooled = pooled or [max(_comparable(group, every), key=lambda other: (
        len(other.values(column)), -abs(other.mean(column) - group.mean(column))))]
    freedom = sum(len(item.values(column)) - 1 for item in pooled)
    variance = sum(item.deviation(column) ** 2 * (len(item.values(column)) - 1) for item in pooled)
    noise = math.nan
    if freedom:
        noise = 2 * math.sqrt(variance / freedom * (1 / len(group.values(column)) + 1 / len(parent.values(column))))
    return group.mean(column) - parent.mean(column), noise


def parent_of(group: Group, every: list[Group]) -> Group | None:
    """Return the group that this one is a change of, a run before a search's trial; None where there is none.

    A published row names its parent.
    """
    column, wanted = "group", group.last["parent_group"]
    if group.last["source"] == "published":
        column, wanted = "experiment", group.last["parent"]
    return next((other for other in _comparable(group, every)
                 if wanted and other is not group and other.last[column] == wanted), None)


def concerning(every: list[Group], technique: str) -> list[Group]:
    """Return the groups that changed a technique, and those that they are a change of.

    technique: a column of techniques, or the beginning of a setting's key with a dot. Raises SettingError for neither.
    """
    keys = (technique,) if "." in technique else TECHNIQUES.get(technique)
    if keys is None:
        raise SettingError(f"ledger: unknown technique '{technique}'{nearest(technique, TECHNIQUES)}")
    chosen = [group for group in every
              if any(_is_of(change, keys or (technique,)) for change in group.last["changed"].split("; "))]
    wanted = {id(group) for group in chosen} | {id(parent_of(group, every)) for group in chosen}
    return [group for group in every if id(group) in wanted]


def _is_of(change: str, keys: tuple[str, ...]) -> bool:
    """Return whether a change "key: old → new" is of one of these settings, or of any augmentation."""
    key = change.partition(": ")[0]
    below = tuple(wanted + "." for wanted in keys if "." in wanted or wanted == "augment")
    return key in keys or key.startswith(below)


def _comparable(group: Group, every: list[Group]) -> list[Group]:
    """Return the groups of the same data, steps and folds, runs before a search's trials of the same settings."""
    same = [other for other in every if all(other.last[column] == group.last[column] for column in SAME)]
    return sorted(same, key=lambda other: other.last["stage"] == "tune")
