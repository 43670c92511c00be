"""Which utterances of a store are the same recording twice: read from its leaks.csv, told, and made one group.

Goes in: a store's directory. Comes out: its leaks. leak_audit.py finds them when the store is built; a store that an
older version built has no leaks.csv and counts as one without leaks. Imports no torch.
"""

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from src.base.errors import RunError
from src.base.text import some

FILE_NAME, COLUMNS = "leaks.csv", ("recording", "utt_id", "split", "speaker", "how")
SAME_BYTES, SAME_SOUND, ALIKE = "same bytes", "same sound", "alike"
How = Literal["same bytes", "same sound", "alike"]


@dataclass(frozen=True)
class Leak:
    """An utterance whose recording stands in the store once more.

    recording: names the recording, the same for all of its utterances. speaker: "" for a test utterance. how: what
    the utterance has in common with another one of the recording: the file's bytes, the frames, or the fingerprint.
    """

    recording: str
    utt_id: str
    split: str
    speaker: str
    how: How


def read_leaks(store_dir: Path) -> list[Leak]:
    """Return the leaks of the store in `store_dir`; raises RunError for a torn file."""
    path = store_dir / FILE_NAME
    if not path.exists():
        return []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        if tuple(header) != COLUMNS:
            raise ValueError(f"its columns are {header}")
        return [Leak(*row) for row in rows]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: not a list of leaks ({error}); remove the store's folder and run preprocess "
                       "again") from error


def names_of_recordings(utt_ids: Iterable[str], leaks: Iterable[Leak]) -> list[str]:
    """Return the recording's name for each training utterance that leaks say stands there twice, "" for the others."""
    name_of = {leak.utt_id: leak.recording for leak in leaks if leak.split == "train"}
    return [name_of.get(utt_id, "") for utt_id in utt_ids]


def joined_groups(groups: Sequence[str], recordings: Sequence[str]) -> list[str]:
    """Return the group of each utterance, such that those of one recording share it.

    groups: "" for a group of its own. recordings: "" for one that stands there once. Groups that share a recording
    become one, called as the first of them, and what had no group gets the recording's name.
    """
    by_recording = defaultdict(list)
    for row, recording in enumerate(recordings):
        if recording:
            by_recording[recording].append(row)
    joined, renamed = list(groups), {}

    def final(group: str) -> str:
        while group in renamed:
            group = renamed[group]
        return group

    for recording, rows in by_recording.items():
        if len(rows) > 1:
            named = list(dict.fromkeys(final(joined[row]) for row in rows if joined[row])) or [f"copies of {recording}"]
            renamed |= {group: named[0] for group in named[1:]}
            for row in rows:
                joined[row] = joined[row] or named[0]
    return [final(group) for group in joined]


def num_leaked_tests(leaks: Iterable[Leak]) -> int:
    """Return how many test utterances are recordings of the training part."""
    leaks = list(leaks)
    in_train = {leak.recording for leak in leaks if leak.split == "train"}
    return sum(leak.split == "test" and leak.recording in in_train for leak in leaks)


def leak_sentences(leaks: Sequence[Leak]) -> list[str]:
    """Return what preprocess says of leaks: a line with counts and a few names, none without leaks."""
    if not leaks:
        return []
    by_recording = defaultdict(list)
    for leak in leaks:
        by_recording[leak.recording].append(leak)
    several = [own for own in by_recording.values() if len({leak.speaker for leak in own if leak.speaker}) > 1]
    counts = ", ".join(f"{number:,} {how}" for how in (SAME_BYTES, SAME_SOUND, ALIKE)
                       if (number := sum(leak.how == how for leak in leaks)))
    names = some([" = ".join(leak.utt_id for leak in own) for own in by_recording.values()])
    said = (f"{_counted(len(by_recording), 'recording stands', 'recordings stand')} there more than once, as "
            f"{len(leaks):,} utterances ({counts}): {names}")
    if number := num_leaked_tests(leaks):
        said += f"; {_counted(number, 'test utterance is', 'test utterances are')} in the training part too"
    if several:
        said += f"; {_counted(len(several), 'recording is', 'recordings are')} given to several speakers"
    return [said]


def leak_warning(leaks: Sequence[Leak], num_test: int) -> str:
    """Return what leaks mean for the score to expect on `num_test` test utterances, "" where they mean nothing."""
    number = num_leaked_tests(leaks)
    if not number:
        return ""
    return (f"{number:,} of {num_test:,} test utterances are recordings that the training part holds too, which "
            "flatters their score")


def _counted(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"
