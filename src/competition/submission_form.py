"""How a competition wants its submission: the sample's first line, its ids and their order.

Goes in: sample_submission.csv. Comes out: a form that submit fills in. One column is the Id (called so in any case,
otherwise the first), one the answer (Category, otherwise the only other one); further columns keep the sample's values.
"""

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from src.base.errors import InputError
from src.base.tables import read_csv
from src.base.text import shown, some
from src.competition.file_names import is_audio

COLUMNS = ("Id", "Category")
PATH = re.compile(r"^(?:.*[/\\])?test[/\\]|^\.[/\\]", re.IGNORECASE)  # before a test file's name


@dataclass(frozen=True)
class Form:
    """A submission's columns and, where there is a sample, its rows in their order.

    utt_ids: the test utterance that each row asks for; empty where no sample says, and the competition's order counts.
    """

    columns: tuple[str, ...] = COLUMNS
    id_column: int = 0
    answer_column: int = 1
    rows: tuple[tuple[str, ...], ...] = ()
    utt_ids: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, str]:
        """Return the names of the id's and of the answer's column."""
        return self.columns[self.id_column], self.columns[self.answer_column]

    @property
    def ids(self) -> list[str]:
        """Return the sample's ids in its order."""
        return [row[self.id_column] for row in self.rows]

    def filled(self, answers: Mapping[str, str]) -> Iterator[list[str]]:
        """Yield the submission's rows; answers: {test utterance: speaker} in the competition's order."""
        for utt_id, row in zip(self.utt_ids, self.rows) if self.rows else ((name, (name, "")) for name in answers):
            filled = list(row)
            filled[self.answer_column] = answers[utt_id]
            yield filled


def read_form(path: Path) -> Form:
    """Return the form that a sample submission gives; raises InputError for one that is no table of ids."""
    table = read_csv(path, ())
    header = tuple(next(iter(table.values())))
    if len(header) == 1 and set(";\t") & set(header[0]):
        raise InputError(f"{path}: the header {shown(header[0])} parts its cells by semicolons or tabs; save it with "
                         "commas")
    named = [i for i, name in enumerate(header) if name.strip().lower() == "id"]
    id_column = named[0] if named else 0
    rows = tuple(tuple(row.values()) for row in table.values())
    if len(header) == 1:
        return Form((header[0], COLUMNS[1]), rows=tuple((*row, "") for row in rows))
    others = [i for i in range(len(header)) if i != id_column]
    answers = [i for i in others if header[i].strip().lower() == "category"] or others
    if len(answers) > 1:
        raise InputError(f"{path}: the header {shown(','.join(header))} does not say which column the answer is; "
                         f"rename that one to {COLUMNS[1]}")
    return Form(header, id_column, answers[0], rows)


def matched(form: Form, names: Sequence[str], optional: Sequence[str], path: Path) -> Form:
    """Return the form with the test utterance of each of its rows.

    An Id is an utterance's name, its path below the competition, or its name without the ending, the same for all.
    names: the test utterances, every one of which must be listed. optional: further files that an Id may name.
    Raises InputError for an Id without an utterance, an utterance without an Id, and an Id that stands twice.
    """
    ids, known = form.ids, {*names, *optional}
    utt_ids = next((found for found in _readings(ids, known) if known.issuperset(found)), ids)
    absent = [text for text, name in zip(ids, utt_ids) if name not in known]
    if absent:
        texts = {unicodedata.normalize("NFC", name) for name in known}
        is_spelling = all(unicodedata.normalize("NFC", name) in texts for name in absent)
        raise InputError(f"{path}: Id: {len(absent)} of {len(ids)} have no file in test/: {some(absent)}; " + (
            "files of these names are there in another Unicode form (unpacked on a Mac?): rename them to the Ids"
            if is_spelling else "an Id is the file's name with its ending"))
    if unlisted := sorted(set(names).difference(utt_ids)):
        raise InputError(f"{path}: Id: {len(unlisted)} of {len(names)} files in test/ are not listed: "
                         f"{some(unlisted)}; add them or remove the files")
    seen: set[str] = set()
    for text, name in zip(ids, utt_ids):
        if name in seen:
            raise InputError(f"{path}: Id: {shown(text)} stands there twice; remove one of its lines")
        seen.add(name)
    return replace(form, utt_ids=tuple(utt_ids))


def _readings(ids: list[str], known: set[str]) -> Iterator[list[str]]:
    """Yield what the ids may mean, the plainest first: names, paths of files, names without the ending."""
    yield ids
    last = [PATH.sub("", text) for text in ids]
    yield last
    stems: dict[str, list[str]] = {}
    for name in known:
        if is_audio(name):
            stems.setdefault(os.path.splitext(name)[0], []).append(name)
    if all(len(stems.get(text, ())) == 1 for text in last):
        yield [stems[text][0] for text in last]
