"""The ledger as a table: one line for each settings that were run, with mean and deviation over their seeds.

In: the ledger's rows. Out: text that fits a terminal, Markdown or CSV, a part for each competition, others' rows marked
next to ours; `write_into` puts the Markdown between a README's markers.
"""

import csv
import io
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from src.base.errors import InputError
from src.base.files import atomic_open
from src.ledger.baselines import read_lines
from src.ledger.columns import FEW, FIGURES, SHOWN, USUAL, Column, Part, changes, find_column
from src.ledger.groups import Group, concerning, data_names, effect, groups
from src.ledger.row import TECHNIQUES
from src.ledger.sheet import Row

Format = Literal["text", "md", "csv"]
SOURCES = ("ours", "elsewhere", "published")  # the order within a part
BEGIN, END = "<!-- ledger:begin -->", "<!-- ledger:end -->"


@dataclass(frozen=True)
class View:
    """What is asked of a table.

    columns: their names, () for all that have a cell, of which a terminal shows the usual ones. sort: a column, the
    best first. top: so many lines, the best by `sort` or else by valid. technique: settings that changed it, and what
    they changed. width: characters of a line of text, None for as many as there are.
    """

    columns: tuple[str, ...] = ()
    sort: str = ""
    top: int | None = None
    technique: str = ""
    width: int | None = None


EVERYTHING = View()


def table(rows: Sequence[Row], format: Format = "md", view: View = EVERYTHING) -> str:
    """Return the ablation table of ledger rows, as `ledger.read` returns them.

    Raises InputError for no row, SettingError for a column or a technique that there is not.
    """
    if not rows:
        raise InputError("ledger: no row to show yet; a run appends one: `bash run.sh`")
    parts = [(each, _listed(part, view), part) for each, part in _parts(rows)]
    if format == "csv":
        return _csv([(listed, part) for _, listed, part in parts], view)
    shown = [_part(each, listed, part, format, view) for each, listed, part in parts
             if listed or not view.technique]
    return "\n".join(shown) or f"ledger: no run has changed {view.technique}\n"


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


def _parts(rows: Sequence[Row]) -> list[tuple[list[Row], Part]]:
    """Return the rows of each competition's data and metric, with their groups; those with rows of ours first."""
    data = data_names(rows)
    found: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: SOURCES.index(row["source"])):
        found.setdefault((data[row["competition"]], row["metric"]), []).append(row)
    return [(each, Part(groups(each), read_lines(each[0]["competition"]))) for each in found.values()]


def _listed(part: Part, view: View) -> list[Group]:
    """Return the groups that have a line, in their order; a search's trials have none."""
    every = concerning(part.groups, view.technique) if view.technique else part.groups
    listed = [group for group in every if not _is_trial(group)]
    if not (view.sort or view.top):
        return listed
    column = find_column(view.sort or "valid")
    if column.number is None:
        listed.sort(key=lambda group: column.show(group, part))
    else:
        sign = 1 if part.smaller_is_better or column.name in ("time", "seconds") else -1
        numbers = {id(group): sign * column.number(group, part) for group in listed}
        listed.sort(key=lambda group: (math.isnan(numbers[id(group)]), numbers[id(group)]))
    return listed[:view.top]


def _is_trial(group: Group) -> bool:
    return {row["stage"] for row in group.rows} == {"tune"}


def _part(rows: list[Row], listed: list[Group], part: Part, format: Format, view: View) -> str:
    """Return a part of the table: its title, its lines, and what they leave out."""
    bold = "**" if format == "md" else ""
    names = ", ".join(dict.fromkeys(row["competition"] for row in rows))
    title = f"{bold}{names}{bold} ({rows[0]['metric']}; {_about(rows)})"
    columns = _columns(listed, part, view)
    cells = [[column.show(group, part).replace("\n", " ") for column in columns] for group in listed]
    shown = {column.name for column in columns}
    if format == "md":
        grid = _markdown(columns, cells)
    else:
        grid, shown = _text(columns, cells, view)
    notes = _notes(listed, part, shown, view)
    if format == "text" and view.width:
        title, *notes = [textwrap.fill(line, view.width) for line in (title, *notes)]
    blocks = [title, *["\n".join(grid)] * bool(listed), *notes]
    return "\n\n".join(blocks) + "\n"


def _notes(listed: list[Group], part: Part, shown: set[str], view: View) -> list[str]:
    """Return what the lines of a part leave out, and what their signs mean."""
    notes = []
    trials = [group for group in part.groups if _is_trial(group)]
    if trials and not view.technique:
        best = max((group for group in trials if group.values("valid")), key=lambda group: group.mean("valid"),
                   default=trials[0])
        notes.append(f"Not listed: {len(trials)} settings that the search tried; the best, {best.last['run_id']}, has "
                     f"valid {SHOWN['valid'].show(best, part) or 'unknown'}.")
    if "changed" in shown and any(changes(group) != group.last["changed"] for group in listed):
        notes.append(f"changed: of more than {FEW} changes those are left out that another column shows; the ledger "
                     "has them all.")
    if "effect" in shown and any(effect(group, part.groups) for group in listed):
        notes.append('Δ valid: the difference to the parent at equal steps and folds; "no change" where it lies '
                     'within twice its standard error, "?" where nothing was run on two seeds to tell.')
    if "past" in shown and part.lines:
        lines = ", ".join(f"{line.name} {line}" for line in part.lines)
        notes.append(f"past: the highest grading line that a score reaches, of {lines}.")
    return notes


def _about(rows: list[Row]) -> str:
    """Return how many rows there are, by source."""
    sources, statuses = (Counter(row[column] for row in rows) for column in ("source", "status"))
    of_ours = " of ours" * (len(sources) > 1)
    said = [f"{sources['ours']} run{'s' * (sources['ours'] > 1)}{of_ours}"] * bool(sources["ours"])
    said += [f"{statuses[status]} {status}" for status in ("failed", "pruned") if statuses[status]]
    said += ["mean ± deviation over n seeds"] * bool(sources["ours"])
    others = " and ".join(f"{sources[source]} {source}" for source in SOURCES[1:] if sources[source])
    return ", ".join(said + [f"{others} in no mean"] * bool(others))


def _columns(listed: list[Group], part: Part, view: View) -> list[Column]:
    """Return the columns that are asked for, else those of which some line has a cell."""
    if view.columns:
        return [find_column(name) for name in view.columns]
    wanted = [find_column(view.technique)] if view.technique in TECHNIQUES else []
    columns = [column for column in SHOWN.values() if column.name in USUAL or view.width is None]
    if all(group.last["source"] == "ours" for group in listed):
        columns.remove(SHOWN["by"])
    columns = [column for column in columns if any(column.show(group, part) for group in listed)]
    return columns + [column for column in wanted if column.name not in {other.name for other in columns}]


def _markdown(columns: list[Column], cells: list[list[str]]) -> list[str]:
    rows = [[column.heading for column in columns], *cells]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(columns), *lines[1:]]


def _text(columns: list[Column], cells: list[list[str]], view: View) -> tuple[list[str], set[str]]:
    """Return aligned lines that fit the view's width, and the columns that they have."""
    rows = [[column.heading for column in columns], *cells]
    natural = {column.name: max(len(row[at]) for row in rows) for at, column in enumerate(columns)}
    widths = _fit(columns, natural, view)
    lines = []
    for row in rows:
        kept = [(cell, widths[column.name]) for column, cell in zip(columns, row) if column.name in widths]
        lines.append("  ".join((cell if len(cell) <= size else cell[: size - 1] + "…").ljust(size)
                               for cell, size in kept).rstrip())
    return lines, set(widths)


def _fit(columns: list[Column], natural: dict[str, int], view: View) -> dict[str, int]:
    """Return {column: characters} of those that the view's width holds, long cells cut; all that were asked for."""
    if view.width is None:
        return natural
    widths: dict[str, int] = {}
    for column in sorted(columns, key=lambda column: USUAL.index(column.name) if column.name in USUAL else -1):
        size = min(natural[column.name], column.cut_to or natural[column.name])
        if view.columns or sum(widths.values()) + 2 * len(widths) + size <= view.width:
            widths[column.name] = size
    for name in widths:  # what is left goes to the cells that were cut
        spare = view.width - sum(widths.values()) - 2 * (len(widths) - 1)
        widths[name] += max(0, min(spare, natural[name] - widths[name]))
    return widths


def _csv(parts: list[tuple[list[Group], Part]], view: View) -> str:
    """Return one table of all parts, figures as numbers with the deviations next to them."""
    columns = [find_column(name) for name in view.columns or SHOWN]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["competition", "metric", *(name for column in columns for name in _csv_names(column))])
    for listed, part in parts:
        for group in listed:
            cells = [cell for column in columns for cell in _csv_cells(column, group, part)]
            writer.writerow([group.last["competition"], group.last["metric"], *cells])
    return out.getvalue()


def _csv_names(column: Column) -> list[str]:
    return [column.name, f"{column.name}_deviation"] if column.name in FIGURES else [column.name]


def _csv_cells(column: Column, group: Group, part: Part) -> list[str]:
    """Return a column's cell, as a number where it is one, and its deviation where it has one."""
    if column.number is None:
        return [group.last["changed"] if column.name == "changed" else column.show(group, part)]
    numbers = [column.number(group, part)]
    numbers += [group.deviation(column.name)] if column.name in FIGURES else []
    return ["" if math.isnan(number) else f"{number:.6g}" for number in numbers]
