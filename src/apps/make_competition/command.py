"""From a corpus of speaker folders to a closed competition that the stream reads and the ledger scores locally.

    python -m src make-competition LibriSpeech data/libri [--train-per-speaker N] [--test-per-speaker M] [--speakers K]
                                                          [--shift] [--seed S]

Beside the stream. Goes in: a corpus (see corpus.py). Comes out, whole or not at all: a folder of audio with
train/<speaker>/…, test files whose names mean nothing, sample_submission.csv, solution.csv (public and private halves,
read for the local score alone), utterances.csv where sessions are known, and with --shift conditions.csv. Every speaker
stands on both sides, a session never does: it is the room and microphone that a model must not be scored on again.
Files are linked, or copied where they cannot be, and never moved.
"""

import contextlib
import csv
import os
import shlex
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from src.apps.make_competition.corpus import Corpus, open_corpus
from src.apps.make_competition.corpus_recording import Recording
from src.apps.make_competition.cut_parts import cut_parts
from src.apps.make_competition.split import Split, choose
from src.base.errors import InputError, RunError, SettingError
from src.base.files import lock
from src.base.text import some
from src.base.workspace import DATA_DIR
from src.competition.file_names import by_name
from src.competition.open import open_competition
from src.competition.utterances import UNSAFE, check_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.random import Generator

GROUPED_SESSIONS = 10  # training sessions of speakers with several, from which on five folds can be made of sessions
SHIFT = {"as recorded": 0.3, "mixed": 0.4, "equaliser": 0.05, "noise": 0.05, "babble": 0.05, "reverberation": 0.05,
         "telephone": 0.05, "bitrate": 0.05}  # the part of the test utterances that goes through each condition
NUM_VOICES = 40  # speakers whose training utterances are the babble
UNUSABLE_PART, UNUSABLE_HANDFUL = 0.05, 5  # test files that may be unusable: the larger of the two


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `python -m src make-competition`."""
    parser.add_argument("corpus", metavar="CORPUS_DIR",
                        help="folders of speakers at any level, or tables of Kaldi, Common Voice, …")
    parser.add_argument("out", metavar="OUT", help="the competition's folder, such as data/mine; must not exist")
    parser.add_argument("--train-per-speaker", type=int, metavar="N", help="default: all that are not for the test")
    parser.add_argument("--test-per-speaker", type=int, metavar="M", help="default: about a fifth of them")
    parser.add_argument("--speakers", type=int, metavar="K", help="as many, drawn at random (default: all)")
    parser.add_argument("--speaker-level", type=int, metavar="L",
                        help="1: the folders in CORPUS_DIR are the speakers, 2: those in them, … (default: found)")
    parser.add_argument("--shift", action="store_true",
                        help="send 70 %% of the test utterances through another session (noise, room, line, …)")
    parser.add_argument("--seed", type=int, default=0, help="of every draw (default: %(default)s)")


def main(options: Namespace) -> None:
    """Make the competition that the command line asks for, and print what to run next."""
    out = make_competition(options.corpus, options.out, train_per_speaker=options.train_per_speaker,
                           test_per_speaker=options.test_per_speaker, num_speakers=options.speakers,
                           speaker_level=options.speaker_level, shift=options.shift, seed=options.seed)
    named = out.name if out.parent == DATA_DIR else str(out)
    print(f"next: bash run.sh --data {shlex.quote(named)}")


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
    import numpy as np

    splits = cut_parts(splits, folder / ".parts")
    rng = np.random.default_rng([seed, len(splits)])
    train = [(f"train/{r.speaker}/{r.session}{'/' if r.session else ''}{r.name}", r)
             for split in splits.values() for r in split.train]
    num_linked = sum(_place(r.path, folder / path) for path, r in train)
    tests = [recording for split in splits.values() for recording in split.test]
    tests = [tests[i] for i in rng.permutation(len(tests))]
    names = [f"{name:016x}" for name in np.sort(rng.choice(1 << 62, len(tests), replace=False)).tolist()]
    conditions = _conditions(len(tests), rng) if shift else [None] * len(tests)
    written, unusable = [], []
    (folder / "test").mkdir()
    outcomes = _write_tests(folder, names, tests, conditions, _voices(splits, shift, rng))
    for recording, condition, (file_name, fault) in zip(tests, conditions, outcomes):
        if fault:
            unusable.append(f"  {recording.path}: {fault}")
        else:
            written.append((file_name, recording.speaker, condition))
    listing = "\n".join(unusable[:10] + ([f"  … and {len(unusable) - 10} more"] if len(unusable) > 10 else []))
    if len(unusable) > max(UNUSABLE_HANDFUL, UNUSABLE_PART * len(tests)):
        raise InputError(f"{corpus.directory}: {len(unusable)} of {len(tests)} files drawn for the test cannot be "
                         f"used; unpack the corpus again, or remove them:\n{listing}")
    usage = np.full(len(written), "Private", object)
    usage[rng.permutation(len(written))[: len(written) // 2]] = "Public"
    first = min(splits)
    _table(folder / "sample_submission.csv", ("Id", "Category"), ((name, first) for name, _, _ in written))
    _table(folder / "solution.csv", ("Id", "Category", "Usage"),
           ((name, speaker, half) for (name, speaker, _), half in zip(written, usage)))
    if shift:
        _table(folder / "conditions.csv", ("Id", "condition"), ((name, condition) for name, _, condition in written))
    (folder / "README.md").write_text(_readme(corpus, splits, shift, seed), encoding="utf-8")
    said = [f"{len(splits):,} speakers: {len(train):,} training and {len(written):,} test utterances; "
            f"{num_linked:,} training files linked, {len(train) - num_linked:,} copied"]
    if unusable:
        said.append(f"left out: {len(unusable)} of {len(tests)} test files that cannot be used:\n{listing}")
    shutil.rmtree(folder / ".parts", ignore_errors=True)  # linked to where they belong
    said += _write_groups(folder, train, splits)
    if shift:
        counts = [(condition, sum(c == condition for _, _, c in written)) for condition in SHIFT]
        said.append("test conditions: " + ", ".join(f"{condition} {count:,}" for condition, count in counts))
    return said


def _conditions(number: int, rng: "Generator") -> list[str]:
    """Return the condition of each of `number` test utterances: the parts of SHIFT to the utterance, shuffled."""
    import numpy as np

    ends = np.round(np.cumsum(list(SHIFT.values())) * number).astype(int)
    return rng.permutation(np.repeat(list(SHIFT), np.diff(ends, prepend=0))).tolist()


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


def _place(source: Path, target: Path) -> bool:
    """Link `target` to the same file, or copy it, and return whether it was linked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    real = os.path.realpath(source)  # a link to a link would dangle
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)
        return False
    return True


def _table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _write_tests(folder: Path, names: list[str], tests: list[Recording], conditions: list[str | None],
                 voices: list[tuple[str, "np.ndarray"]]) -> Iterator[tuple[str, str]]:
    """Write the test files and yield, in order, each one's name in the competition and why it cannot be used, or ""."""
    from tqdm import tqdm

    from src.base.machine import usable_cpus
    from src.base.torch_files import CorruptFile

    def write(name: str, recording: Recording, condition: str | None) -> tuple[str, str]:
        try:
            file_name = name + (".flac" if condition else recording.path.suffix.lower())
            waveform = _decoded(recording.path)  # one unusable test file would stop every run
        except CorruptFile as fault:
            return name, str(fault)
        if condition is None:
            _place(recording.path, folder / "test" / file_name)
        else:
            others = [voice for speaker, voice in voices if speaker != recording.speaker]
            _write_shifted(folder / "test" / file_name, waveform, condition, others)
        return file_name, ""

    with ThreadPoolExecutor(usable_cpus()) as pool:
        yield from tqdm(pool.map(write, names, tests, conditions), total=len(tests), desc="test", unit="utterance",
                        disable=None)


def _decoded(path: Path) -> "np.ndarray":
    """Return the waveform (num_samples,) float32 at 16 kHz, peak -3 dB."""
    from src.settings.config import Features
    from src.store import audio_file as audio

    return audio.standardise(*audio.decode(path.read_bytes()), Features()).numpy()


def _voices(splits: dict[str, Split], shift: bool, rng: "Generator") -> list[tuple[str, "np.ndarray"]]:
    """Return (speaker, waveform) of a training utterance of some speakers, for babble."""
    from src.base.torch_files import CorruptFile

    voices: list[tuple[str, np.ndarray]] = []
    for i in rng.permutation(len(splits)) if shift else ():
        split = list(splits.values())[i]
        try:
            voices.append((split.train[0].speaker, _decoded(split.train[int(rng.integers(len(split.train)))].path)))
        except CorruptFile:
            continue
        if len(voices) == NUM_VOICES:
            break
    if shift and len(voices) < 2:
        raise InputError("--shift: fewer than two speakers have a usable training utterance for babble; unpack the "
                         "corpus again")
    return voices


def _write_shifted(path: Path, waveform: "np.ndarray", condition: str, voices: list["np.ndarray"]) -> None:
    """Write a test utterance as another session would have given it, 16-bit flac whatever the condition."""
    import soundfile

    from src.shift.degrade import SAMPLE_RATE, degrade, generator

    if condition != "as recorded":
        waveform = degrade(waveform, condition, generator(condition, path.stem), voices)
    soundfile.write(path, waveform, SAMPLE_RATE, subtype="PCM_16")
