"""A competition's grading lines: which of them a score is past, and by how much it is below the next.

In: submissions/<competition>/baselines.csv (name, public, private[, all]), the workspace's before the project's. The
course's data has the lines of 2022, whatever its folder is called; where it is another year's, a copy of that year's
file in the folder's name takes their place. A line whose halves are not known is compared by `all`, its accuracy on the
whole test part.
"""

import math
from dataclasses import dataclass

from src.base.errors import InputError
from src.base.tables import read_csv
from src.base.text import shown
from src.base.workspace import PROJECT_DIR, submissions_dir
from src.competition.open import COURSE, is_course


@dataclass(frozen=True)
class Line:
    """One grading line; NaN where a figure is not known."""

    name: str
    public: float
    private: float
    all: float

    def value(self, half: str) -> float:
        """Return what a score on `half` is compared with."""
        own = getattr(self, half)
        return self.all if math.isnan(own) else own

    def __str__(self) -> str:
        """Say its figures: those of the halves that are known, else that of the whole test part."""
        halves = [value for value in (self.public, self.private) if not math.isnan(value)]
        return " / ".join(f"{value:.5g}" for value in halves or [self.all])


@dataclass(frozen=True)
class Standing:
    """A score among the lines. half: public or private, the one that is compared; lines: (value, name), ascending."""

    half: str
    score: float
    lines: tuple[tuple[float, str], ...]

    @property
    def past(self) -> str:
        """The name of the highest line that the score reaches, or ""."""
        return next((name for value, name in reversed(self.lines) if self.score >= value), "")

    def __str__(self) -> str:
        """Say it, such as "past Strong, 0.012 below Boss (public)"."""
        above = next(((value, name) for value, name in self.lines if value > self.score), None)
        words = [f"past {self.past}"] if self.past else []
        if above:
            words.append(f"{above[0] - self.score:.4f}".rstrip("0") + f" below {above[1]}")
        else:
            words[0] += " by " + (f"{self.score - self.lines[-1][0]:.4f}".rstrip("0").rstrip(".")) + ", the highest"
        return f"{', '.join(words)} ({self.half})"


def read_lines(competition: str) -> tuple[Line, ...]:
    """Return a competition's grading lines, none where there is no file; raises InputError naming a line that is wrong.

    competition: its name, as the ledger has it.
    """
    folders = [submissions_dir(competition), PROJECT_DIR / "submissions" / competition]
    folders += [PROJECT_DIR / "submissions" / COURSE] * is_course(competition)
    path = next((folder / "baselines.csv" for folder in folders if (folder / "baselines.csv").is_file()), None)
    if path is None:
        return ()
    lines = []
    for number, row in read_csv(path, ("name", "public"), ("private", "all")).items():
        try:
            lines.append(Line(row["name"], *(float(row.get(half) or "nan") for half in ("public", "private", "all"))))
        except ValueError as error:
            raise InputError(f"{path}: line {number}: {shown(str(error))}; write accuracies between 0 and 1") from error
    return tuple(lines)


def stand(lines: tuple[Line, ...], public: float, private: float) -> Standing | None:
    """Return where a score stands; None where no line tells of a half that is known. NaN: half not known.

    The private half decides where both know it.
    """
    for half, score in (("private", private), ("public", public)):
        if not math.isnan(score) and any(not math.isnan(getattr(line, half)) for line in lines):
            values = [(line.value(half), line.name) for line in lines]
            return Standing(half, score, tuple(sorted(item for item in values if not math.isnan(item[0]))))
    return None


def describe(competition: str, public: float, private: float) -> str:
    """Return the line that ends a scored run, or ""; a file of lines that cannot be read is said, not raised."""
    try:
        standing = stand(read_lines(competition), public, private)
    except InputError as error:
        return f"grading lines: {error}"
    return f"grading lines: {standing}" if standing else ""
