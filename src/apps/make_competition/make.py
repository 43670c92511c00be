"""Write a closed competition from a corpus: the training part, the test part, the tables; whole or not at all."""

import contextlib
import csv
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from src.apps.make_competition.corpus import Corpus, open_corpus
from src.apps.make_competition.corpus_recording import Recording
from src.apps.make_competition.cut_parts import cut_parts
from src.apps.make_competition.place import place
from src.apps.make_competition.sessions import SHIFT, draw_conditions, draw_voices, write_tests
from src.apps.make_competition.split import Split, choose
from src.base.errors import InputError, RunError, SettingError
from src.base.files import lock
from src.base.text import some
from src.competition.file_names import by_name
from src.competition.open import open_competition
from src.competition.utterances import UNSAFE, check_names

GROUPED_SESSIONS = 10  # training sessions of speakers with several, from which on five folds can be made of sessions
UNUSABLE_PART, UNUSABLE_HANDFUL = 0.05, 5  # test files that may be unusable: the larger of the two


def make_competition(corpus_dir: str | Path, out: str | Path, *, train_per_speaker: int | None = None,
                     test_per_speaker: int | None = None, num_speakers: int | None = None,
                     speaker_level: int | None = None, shift: bool = False, seed: int = 0) -> Path:
    """Write the competition `out` and return its path.

    Speakers that the numbers or their sessions do not allow to split are left out, with their count and the reason.
    Raises SettingError for an `out` that exists or lies within the corpus and for numbers below 1, InputError when
    fewer than two (or than num_speakers) speakers can be split, or too many test files cannot be decoded.
    """
    out = Path(os.path.abspath(out))
    for name, number, least in (("--train-per-speaker", train_per_speaker, 1), ("--seed", seed, 0),
                                ("--test-per-speaker", test_per_speaker, 1), ("--speakers", num_speakers, 2),
                                ("--speaker-level", speaker_level, 1)):
        if number is not None and number < least:
            raise SettingError(f"{name} {number}: must be at least {least}")
    _check_free(out)
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(corpus_dir)):
        raise SettingError(f"{out}: lies within the corpus {corpus_dir}; name a folder outside it, such as "
                           f"data/{out.name}")
    corpus = open_corpus(corpus_dir, speaker_level)
    print(*_found(corpus), sep="\n", flush=True)
    _check_recordings(corpus)
    try:
        splits = choose(corpus, train_per_speaker, test_per_speaker, num_speakers, seed)
        with _in_the_making(out) as partial:
            said = _write(partial, corpus, splits, shift, seed)
            open_competition(partial)  # as every stage will
    except OSError as error:
        raise RunError(f"{error.filename or out}: {error.strerror}; nothing was made. Put this right (make room, make "
                       "the file readable) and run the same command again") from error
    print(*said, out, sep="\n", flush=True)
    return out


def _found(corpus: Corpus) -> Iterator[str]:
    """Yield lines about a corpus: its utterances and speakers, where they stand, and what is left out."""
    yield (f"{corpus.directory}: {len(corpus.recordings):,} utterances of {len(corpus.speakers):,} speakers "
           f"{corpus.where}: {some(corpus.speakers)} ({corpus.layout})")
    if corpus.hint:
        yield f"  {corpus.hint}"
    if corpus.nobody:
        yield f"left out, for their names are known to be no speaker's: {by_name(corpus.nobody)}"
    if corpus.num_strays:
        yield f"left out: {corpus.num_strays:,} files outside that layout"
    if corpus.num_missing:
        yield f"left out: {corpus.num_missing:,} rows whose file is not there"
    for suffix, number in corpus.others.items():
        yield (f"left out: {number:,} files of audio that is not read ({suffix}): convert them first (such as "
               f"`ffmpeg -i x{suffix} x.flac`)")
    if corpus.unknown:
        yield f"left out: {sum(corpus.unknown.values()):,} files of no known kind ({some(sorted(corpus.unknown))})"


@contextlib.contextmanager
def _in_the_making(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out` that becomes `out` when the block ends without an error, and vanishes else."""
    lock_path, partial = (out.with_name(f".{out.name}.{what}") for what in ("lock", "partial"))
    with lock(lock_path, f"another process makes {out}; waiting for it"):
        try:
            _check_free(out)
            shutil.rmtree(partial, ignore_errors=True)  # of a killed run; the lock says that nobody writes
            partial.mkdir()
            yield partial
            os.rename(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            lock_path.unlink(missing_ok=True)


def _check_free(out: Path) -> None:
    if os.path.lexists(out):
        raise SettingError(f"{out}: exists already; name another folder, or remove it")


def _check_recordings(corpus: Corpus) -> None:
    """Raise InputError for names that could not be those of files and classes, or that would leave the folder."""
    for recording in corpus.recordings:
        parts = [recording.speaker, *recording.session.split("/"), recording.name]
        if (any(part.startswith(".") or UNSAFE.search(part) for part in parts) or "/" in recording.speaker
                or not recording.speaker):
            raise InputError(f"{recording.path}: {'/'.join(filter(None, parts))!r} cannot be the name of a file in the "
                             "competition; rename it")
    check_names(corpus.directory, "speaker", dict.fromkeys(recording.speaker for recording in corpus.recordings))


def _write(folder: Path, corpus: Corpus, splits: dict[str, Split], shift: bool, seed: int) -> list[str]:
    """Fill the competition's folder and return what to say about it."""
    rng = np.random.default_rng([seed, len(splits)])
    splits = cut_parts(splits, folder / ".parts")
    train = [(f"train/{r.speaker}/{r.session}{'/' if r.session else ''}{r.name}", r)
             for split in splits.values() for r in split.train]
    num_linked = sum(place(r.path, folder / path) for path, r in train)
    written, unusable = _write_test_part(folder, splits, shift, rng)
    num_tests = len(written) + len(unusable)
    listing = "\n".join(unusable[:10] + ([f"  … and {len(unusable) - 10} more"] if len(unusable) > 10 else []))
    if len(unusable) > max(UNUSABLE_HANDFUL, UNUSABLE_PART * num_tests):
        raise InputError(f"{corpus.directory}: {len(unusable)} of {num_tests} files drawn for the test cannot be "
                         f"used; unpack the corpus again, or remove them:\n{listing}")
    _write_tables(folder, written, min(splits), shift, rng)
    (folder / "README.md").write_text(_readme(corpus, splits, shift, seed), encoding="utf-8")
    said = [f"{len(splits):,} speakers: {len(train):,} training and {len(written):,} test utterances; "
            f"{num_linked:,} training files linked, {len(train) - num_linked:,} copied"]
    if unusable:
        said.append(f"left out: {len(unusable)} of {num_tests} test files that cannot be used:\n{listing}")
    shutil.rmtree(folder / ".parts", ignore_errors=True)  # linked to where they belong
    said += _write_groups(folder, train, splits)
    if shift:
        counts = [(condition, sum(test.condition == condition for test in written)) for condition in SHIFT]
        said.append("test conditions: " + ", ".join(f"{condition} {count:,}" for condition, count in counts))
    return said


class TestFile(NamedTuple):
    """A test file of the competition; condition: None where the competition has no conditions."""

    file_name: str
    speaker: str
    condition: str | None


def _write_test_part(folder: Path, splits: dict[str, Split], shift: bool,
                     rng: Generator) -> tuple[list[TestFile], list[str]]:
    """Write the test files in random order and under random names; return them, and a line for each unusable one."""
    tests = [recording for split in splits.values() for recording in split.test]
    tests = [tests[i] for i in rng.permutation(len(tests))]
    names = [f"{name:016x}" for name in np.sort(rng.choice(1 << 62, len(tests), replace=False)).tolist()]
    conditions = draw_conditions(len(tests), rng) if shift else [None] * len(tests)
    voices = draw_voices(splits, rng) if shift else []
    written, unusable = [], []
    (folder / "test").mkdir()
    outcomes = write_tests(folder, names, tests, conditions, voices)
    for recording, condition, (file_name, fault) in zip(tests, conditions, outcomes):
        if fault:
            unusable.append(f"  {recording.path}: {fault}")
        else:
            written.append(TestFile(file_name, recording.speaker, condition))
    return written, unusable


def _write_tables(folder: Path, tests: list[TestFile], first_speaker: str, shift: bool, rng: Generator) -> None:
    """Write the sample submission, the solution in a public and a private half, and the conditions."""
    usage = np.full(len(tests), "Private", object)
    usage[rng.permutation(len(tests))[: len(tests) // 2]] = "Public"
    _table(folder / "sample_submission.csv", ("Id", "Category"), ((test.file_name, first_speaker) for test in tests))
    _table(folder / "solution.csv", ("Id", "Category", "Usage"),
           ((test.file_name, test.speaker, half) for test, half in zip(tests, usage)))
    if shift:
        _table(folder / "conditions.csv", ("Id", "condition"), ((test.file_name, test.condition) for test in tests))


def _write_groups(folder: Path, train: list[tuple[str, Recording]], splits: dict[str, Split]) -> list[str]:
    """Write utterances.csv where the corpus has sessions; folds never split a session as long as folds can be made."""
    if not any(recording.session for _, recording in train):
        return []
    sessions = [{recording.session for recording in split.train} for split in splits.values()]
    grouped = sum(len(names) for names in sessions if len(names) > 1) >= GROUPED_SESSIONS
    rows = [(path, r.speaker, f"{r.speaker}/{r.session}" if r.session else "") for path, r in train]
    num_columns = 3 if grouped else 2
    _table(folder / "utterances.csv", ("path", "label", "group")[:num_columns], (row[:num_columns] for row in rows))
    if grouped:
        several = sum(len(names) > 1 for names in sessions)
        return [f"{sum(map(len, sessions)):,} training sessions, none of which folds will split: the {several:,} of "
                f"{len(splits):,} speakers that have several are validated, the others only trained on"]
    return ["too few speakers have two training sessions: folds will split sessions, which flatters their accuracy"]


def _readme(corpus: Corpus, splits: dict[str, Split], shift: bool, seed: int) -> str:
    shifted = "; 70 % of the test went through another, simulated session, see conditions.csv" if shift else ""
    return (f"# A closed competition made from {corpus.directory.name}\n\n"
            f"{len(splits)} speakers; layout: {corpus.layout}; `make-competition` with seed {seed}{shifted}.\n\n"
            "train/<speaker>/: training utterances. test/: names without meaning. solution.csv: the test labels, in a "
            "public and a private half; read for the local score alone. The recordings have the corpus' licence.\n")


def _table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
