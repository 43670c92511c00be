"""Labelled sentence pairs: a CSV (premise, hypothesis, label) in, training and held-out pairs out."""

import csv
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from src.base.errors import InputError

COLUMNS = ("premise", "hypothesis", "label")


class Pair(NamedTuple):
    """Two sentences and what the second is to the first (entailment, neutral, contradiction, say)."""

    premise: str
    hypothesis: str
    label: str


def read_pairs(path: Path) -> list[Pair]:
    """Return the pairs of a CSV file with the columns premise, hypothesis and label.

    Raises InputError, naming the line, for a missing column, an empty cell, or a file without pairs.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: no column {', '.join(missing)}; its first line must name "
                                 f"{', '.join(COLUMNS)}")
            pairs = []
            for row in reader:
                cells = [(row[name] or "").strip() for name in COLUMNS]
                if not all(cells):
                    raise InputError(f"{path}, line {reader.line_num}: an empty {COLUMNS[cells.index('')]}; fill it in "
                                     "or delete the line")
                pairs.append(Pair(*cells))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not readable as UTF-8 CSV ({error}); save it so") from error
    if not pairs:
        raise InputError(f"{path}: holds no pairs")
    return pairs


def label_names(pairs: list[Pair]) -> tuple[str, ...]:
    """Return the classes in alphabetical order; raises InputError for fewer than two."""
    names = tuple(sorted({pair.label for pair in pairs}))
    if len(names) < 2:
        raise InputError(f"only one class, '{names[0]}', in the label column; two are needed at least")
    return names


def label_indices(pairs: list[Pair], names: tuple[str, ...]) -> np.ndarray:
    """Return (N,) int64 classes of pairs; raises InputError for a label that training does not know."""
    unknown = sorted({pair.label for pair in pairs} - set(names))
    if unknown:
        raise InputError(f"label '{unknown[0]}' stands in the validation pairs and not in the training pairs, which "
                         f"have {', '.join(names)}")
    return np.array([names.index(pair.label) for pair in pairs], np.int64)


def hold_out(pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Return training and held-out pairs, a fifth of each class held out, the same on every call.

    Pairs of one premise stay on one side, for a model could know its label by heart. Raises InputError for too few.
    """
    rare, number = min((number, name) for name, number in Counter(pair.label for pair in pairs).items())[::-1]
    num_premises = len({pair.premise for pair in pairs})
    if min(number, num_premises) < 5:
        raise InputError(f"too few pairs to hold a fifth out: {number} of '{rare}' and {num_premises} premises, 5 of "
                         "each are needed; or give --valid FILE")
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    train, valid = next(splitter.split(pairs, [pair.label for pair in pairs], [pair.premise for pair in pairs]))
    return [pairs[i] for i in train], [pairs[i] for i in valid]
