"""Build a store: decode by threads, write in order, skip what cannot be used."""

import contextlib
import dataclasses
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from src.base.errors import InputError
from src.base.files import digest
from src.base.workspace import cache_dir
from src.competition.hashes import HashMemory, Stamp
from src.competition.open import Competition
from src.competition.utterances import Utterance
from src.settings.auto import DataSummary
from src.settings.config import Features
from src.store.decoder import Reader
from src.store.find import VERSION, store_digest_of, store_dir_of
from src.store.folds import can_deal
from src.store.remarks import remark_sentences
from src.store.writer import Chunk, StoreWriter

CHUNK_UTTERANCES, CHUNK_BYTES = 64, 1 << 24
SKIPPED_PART, SKIPPED_HANDFUL = 0.05, 5  # training files that may be unusable: the larger of the two
TABLE = ("utt_id", "split", "speaker", "group", "text", "offset", "num_frames")  # columns of table.csv
SKIPPED = ("utt_id", "path", "cause")  # columns of skipped.csv
ReadChunk = Callable[[Any], tuple[Chunk, list[memoryview]]]  # what is read of a chunk, and its bytes


def build_store(competition: Competition, features: Features, settings: dict[str, Any], stamps: dict[str, Stamp],
                memory: HashMemory, known: dict[str, str], threads: int) -> Path:
    """Decode every file of a competition into a store and return its directory.

    settings: those that the store depends on. stamps, memory, known: sizes and times of the files, and the hashes
    remembered of them. threads: how many decode at once. The caller holds the lock of the competition's cache.
    """
    began, folder = time.monotonic(), cache_dir(competition.name)
    name = digest([VERSION, settings, [(u.utt_id, u.first_frame, u.num_frames) for u in competition.utterances],
                   [(path, *stamps[path]) for path in stamps]])[:8]
    partial = folder / f"partial-{settings['kind']}-{name}"
    for other in folder.glob("partial-*"):  # of other settings or of files as they were; the lock says nobody writes
        if other != partial:
            shutil.rmtree(other)
    chunks = _chunks(competition, stamps)
    reader = Reader(competition, features, settings, stamps, known)
    with contextlib.closing(StoreWriter(partial, [len(chunk) for chunk in chunks])) as writer:
        fill(writer, chunks, reader.read, threads, "preprocess",
             lambda: _check_skipped(competition, writer.finished, chunks, partly=True))
        skipped = _check_skipped(competition, writer.finished, chunks)
        hashes = known | {path: sha256 for chunk in writer.finished for path, sha256 in chunk.sha256.items()}
        store_digest, rows = store_digest_of(competition, settings, hashes), rows_of(competition.utterances, writer)
        final, counts = store_dir_of(competition, settings, store_digest), counts_of(rows, writer)
        writer.finish(final, [TABLE, *rows], [SKIPPED, *skipped], {
            "digest": store_digest, "version": VERSION, "competition": competition.name, "kind": settings["kind"],
            "dim": reader.dim, **counts, "settings": settings, "summary": _summary(competition, settings, rows),
            "speakers": list(competition.speakers)})
    memory.save(stamps, {path: hashes[path] for path in stamps})
    if skipped:
        print(f"preprocess: skipped {len(skipped)} of {_num_train(competition):,} training files that cannot be used "
              f"(all in {final / 'skipped.csv'}):\n{_listing(skipped)}", flush=True)
    _print_remarks(writer.finished, chunks)
    print(f"preprocess: {len(rows):,} utterances, {counts['num_bytes'] / 1e6:,.0f} MB in "
          f"{time.monotonic() - began:.1f} s -> {final}", flush=True)
    return final


def fill(writer: StoreWriter, chunks: Sequence[Any], read: ReadChunk, threads: int, task: str,
         after_chunk: Callable[[], object] = lambda: None) -> None:
    """Append every chunk that the writer does not hold yet, read by `threads`, in their order.

    read: is called by several threads at once, each of which has one of torch's threads. task: names the progress bar.
    after_chunk: is called after each and may raise to stop.
    """
    num_done = len(writer.finished)
    total, done = sum(writer.chunk_sizes), sum(writer.chunk_sizes[:num_done])
    if done:
        print(f"{task}: {done:,} of {total:,} utterances are done already", flush=True)
    num_threads = torch.get_num_threads()
    try:
        with (contextlib.closing(_in_order(read, chunks[num_done:], threads)) as in_order,
              tqdm(total=total, initial=done, desc=task, unit="utterance", disable=None) as bar):
            for chunk, parts in in_order:
                writer.append(chunk, parts)
                bar.update(len(chunk.num_frames))
                after_chunk()
    finally:
        torch.set_num_threads(num_threads)  # of threads to come, which take the number that was set last


def _chunks(competition: Competition, stamps: Mapping[str, Stamp]) -> list[tuple[Utterance, ...]]:
    """Return the utterances in order, in chunks of bounded number and bytes."""
    chunks: list[tuple[Utterance, ...]] = []
    current: list[Utterance] = []
    num_bytes = 0
    for utterance in competition.utterances:
        size = 0 if competition.kind == "frames" else stamps[utterance.path][0]
        if current and (len(current) == CHUNK_UTTERANCES or num_bytes + size > CHUNK_BYTES):
            chunks.append(tuple(current))
            current, num_bytes = [], 0
        current.append(utterance)
        num_bytes += size
    return [*chunks, tuple(current)]


def _in_order(read: ReadChunk, chunks: Sequence[Any], threads: int) -> Iterator[tuple[Chunk, list[memoryview]]]:
    """Yield read(chunk) in order, a few chunks ahead, so that memory is bounded whatever the size of the input."""
    pending: deque = deque()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for chunk in chunks:
            pending.append(pool.submit(read, chunk))
            if len(pending) > threads + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def rows_of(utterances: Iterable[Utterance], writer: StoreWriter) -> list[tuple]:
    """Return the rows of TABLE: one for each of the `utterances`, in their order, that has frames in the store."""
    rows, offset = [], 0
    lengths = (num_frames for chunk in writer.finished for num_frames in chunk.num_frames)
    for u, num_frames in zip(utterances, lengths):
        if num_frames:
            rows.append((u.utt_id, u.split, u.speaker, u.group, u.text, offset, num_frames))
            offset += num_frames
    return rows


def counts_of(rows: list[tuple], writer: StoreWriter) -> dict[str, int]:
    """Return what meta.json says of a store's size: {"num_utterances", "num_frames", "num_bytes"}."""
    return {"num_utterances": len(rows), "num_frames": sum(row[-1] for row in rows),
            "num_bytes": sum(chunk.num_bytes for chunk in writer.finished)}


def _summary(competition: Competition, settings: Mapping[str, Any], rows: list[tuple]) -> dict[str, Any]:
    """Return what an experiment's "auto" settings are decided from; a finished run is found by it without torch."""
    speakers, groups, num_frames = zip(*[(row[2], row[3], row[-1]) for row in rows if row[1] == "train"])
    index = {speaker: i for i, speaker in enumerate(competition.speakers)}
    labels = np.array([index[speaker] for speaker in speakers])
    return dataclasses.asdict(DataSummary.of(settings["kind"], labels, np.array(num_frames),
                                             settings.get("hop_length", 1), groups,
                                             lambda num_folds: can_deal(labels, groups, num_folds)))


def _check_skipped(competition: Competition, finished: list[Chunk], chunks: list, partly: bool = False) -> list[tuple]:
    """Return (utt_id, path, cause) of the skipped training files; raises InputError where they are too many.

    partly: the run goes on, so that a torn test file waits until all of them can be named.
    """
    bad = [(chunk[int(i)], cause) for chunk, done in zip(chunks, finished) for i, cause in done.skipped.items()]
    if not bad:
        return []
    train, test = ([(u.utt_id, u.path, cause) for u, cause in bad if u.split == split] for split in ("train", "test"))
    if len(train) > max(SKIPPED_HANDFUL, SKIPPED_PART * _num_train(competition)):
        raise InputError(f"{competition.directory}: {len(train)} of {_num_train(competition)} training files cannot be "
                         f"used; fetch them again, or remove them:\n{_listing(train)}")
    if partly:
        return train
    if test:
        raise InputError(f"{competition.directory}: {len(test)} of {len(competition.test_ids):,} test files cannot be "
                         f"used, and every test utterance needs an answer; fetch them again:\n{_listing(test)}")
    lost = {utt_id for utt_id, _, _ in train}
    if len({u.speaker for u in competition.utterances if u.split == "train" and u.utt_id not in lost}) < 2:
        raise InputError(f"{competition.directory}: fewer than two speakers have a usable training file; fetch these "
                         f"again:\n{_listing(train)}")
    return train


def _print_remarks(finished: list[Chunk], chunks: list) -> None:
    """Print a line for each kind of what is odd about files that are used all the same."""
    remarks = [(chunk[int(i)].path, kind, cause) for chunk, done in zip(chunks, finished)
               for i, odd in done.remarks.items() for kind, cause in odd.items()]
    for sentence in remark_sentences(remarks):
        print(f"preprocess: {sentence}", flush=True)


def _num_train(competition: Competition) -> int:
    return sum(utterance.split == "train" for utterance in competition.utterances)


def _listing(skipped: list[tuple]) -> str:
    more = f"\n  … and {len(skipped) - 10} more" if len(skipped) > 10 else ""
    return "\n".join(f"  {path}: {cause}" for _, path, cause in skipped[:10]) + more
