"""Which of a corpus' recordings a closed competition trains on and which it tests: by session, speaker by speaker."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from src.apps.make_competition.corpus import Corpus
from src.apps.make_competition.corpus_recording import Recording
from src.base.errors import InputError
from src.base.text import some

TEST_PART = 0.2  # of a speaker's utterances, unless a number is given


@dataclass(frozen=True)
class Split:
    """One speaker's recordings on the two sides of the competition."""

    train: tuple[Recording, ...]
    test: tuple[Recording, ...]


def choose(corpus: Corpus, num_train: int | None, num_test: int | None, num_speakers: int | None,
            seed: int) -> dict[str, Split]:
    """Return the split of each speaker that takes part; says which are left out, and why."""
    recordings = _without_copies(corpus.recordings)
    if num_copies := len(corpus.recordings) - len(recordings):
        print(f"left out: {num_copies:,} files that are copies of others, which could stand on both sides")
    by_speaker: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_speaker.setdefault(recording.speaker, []).append(recording)
    splits, reasons = {}, {}
    for speaker, own in by_speaker.items():
        key = int.from_bytes(hashlib.sha256(speaker.encode()).digest()[:8])
        split = _split(own, num_train, num_test, np.random.default_rng([seed, key]))  # whoever else takes part
        if isinstance(split, Split):
            splits[speaker] = split
        else:
            reasons.setdefault(split, []).append(speaker)
    left_out = [f"{len(names):,} of {len(by_speaker):,} speakers {reason}: {some(names)}"
                for reason, names in reasons.items()]
    if len(splits) < (num_speakers or 2):
        raise InputError(f"{corpus.directory}: {len(splits):,} speakers can be split, {num_speakers or 2:,} are needed"
                         f"{'; ' if left_out else ''}{'; '.join(left_out)}. Ask for fewer utterances per speaker "
                         "or fewer speakers, give a larger corpus, or, where these are not the speakers, say with "
                         "--speaker-level at which level their folders stand")
    print(*(f"left out: {line}" for line in left_out), sep="\n", end="\n" if left_out else "", flush=True)
    if num_speakers:
        chosen = np.random.default_rng(seed).choice(sorted(splits), num_speakers, replace=False)
        splits = {speaker: splits[speaker] for speaker in sorted(chosen.tolist())}
    return splits


def _without_copies(recordings: Sequence[Recording]) -> list[Recording]:
    """Return the recordings without files of equal size and equal first megabyte, of which the first one stays.

    Parts of one file are no copies of each other.
    """
    by_size: dict[int, list[Recording]] = {}
    for recording in recordings:
        if recording.is_part:
            continue
        by_size.setdefault(os.stat(recording.path).st_size, []).append(recording)
    copies = set()
    for same in by_size.values():
        seen = set()
        for recording in same if len(same) > 1 else ():
            with open(recording.path, "rb") as file:
                start = hashlib.sha256(file.read(1 << 20)).digest()
            if start in seen:
                copies.add(recording)
            seen.add(start)
    return [recording for recording in recordings if recording not in copies]


def _split(recordings: list[Recording], num_train: int | None, num_test: int | None, rng: Generator) -> Split | str:
    """Return one speaker's split by sessions, or the reason why there is none.

    A recording without a session is one of its own. Without num_test, the sessions for the test are those whose number
    of utterances comes nearest to a fifth of all.
    """
    sessions: dict[str, list[Recording]] = {}
    for i, recording in enumerate(recordings):
        sessions.setdefault(recording.session or f"\0{i}", []).append(recording)
    wanted = num_test or max(1, round(TEST_PART * len(recordings)))
    if len(recordings) < (num_train or 1) + wanted:
        return f"with fewer than {num_train or 1} + {wanted} utterances"
    if len(sessions) < 2:
        return "with one session only"
    order = [list(sessions)[i] for i in rng.permutation(len(sessions))]
    sums = _sums([(name, len(sessions[name])) for name in order], wanted)
    fit = [total for total in sums if (num_test or 1) <= total <= len(recordings) - (num_train or 1)]
    if not fit:
        return f"whose sessions give no {num_train or 1} + {wanted} utterances"
    for_test = set(sums[min(fit, key=lambda total: (abs(total - wanted), total))])
    test = [recording for name in order for recording in sessions[name] if name in for_test]
    train = [recording for name in order for recording in sessions[name] if name not in for_test]
    return Split(_draw(train, num_train, rng), _draw(test, num_test, rng))


def _sums(sizes: list[tuple[str, int]], wanted: int) -> dict[int, tuple[str, ...]]:
    """Return {total: names} of sets of sessions, for every total that some set has up to the first beyond `wanted`."""
    if all(size == 1 for _, size in sizes):
        return {wanted: tuple(name for name, _ in sizes[:wanted])}
    sums: dict[int, tuple[str, ...]] = {0: ()}
    for name, size in sizes:
        for total, names in list(sums.items()):
            if total < wanted:
                sums.setdefault(total + size, (*names, name))
    del sums[0]
    return sums


def _draw(recordings: list[Recording], number: int | None, rng: Generator) -> tuple[Recording, ...]:
    """Return `number` of the recordings, or all, in the corpus' order."""
    if number is not None:
        recordings = [recordings[i] for i in rng.choice(len(recordings), number, replace=False)]
    return tuple(sorted(recordings, key=lambda recording: (recording.session, recording.name)))
