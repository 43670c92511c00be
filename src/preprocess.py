"""Stage 1: a competition and its feature settings in, a store out (frames.bin, table.csv, meta.json; see store.py).

    python -m src preprocess --data japanese_vowels

A store lies in data/cache/<competition>/<kind>-<digest8>, named by the settings that matter for this input, the content
of every file and VERSION; one that is there is used as it is. Files are read once, hashed and decoded from memory by
threads (reading, hashing, decoding and the filter bank all release the interpreter's lock), and written in order by
this thread. Log-mels are kept as float16, cepstra as float32, waveforms as int16.

A training file that cannot be used (truncated, empty, NaN, another shape than the tables say) is skipped, counted and
listed in skipped.csv, at most 5 % of them; one unusable test file stops the stage. A file that is odd and usable all
the same (a wrong header but all of the sound, nothing but silence) is used and named at the end. An utterance shorter
than one window is filled up with silence to one; long audio goes through the filter bank in blocks, and files over ten
minutes are decoded one at a time (an hour at 48 kHz takes about 1.6 GB for that moment).
"""

import dataclasses
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from src.competition import Competition, Utterance
from src.config import Features
from src.errors import InputError, SettingError
from src.files import digest, lock, read_json
from src.hashes import HashMemory, Stamp, content_digest, hash_files, stamp_files
from src.remarks import remark_sentences
from src.store_writer import Chunk, StoreWriter
from src.workspace import cache_dir

VERSION = 1  # raised when the same input and settings would give another store
CHUNK_UTTERANCES, CHUNK_BYTES = 64, 1 << 24
SKIPPED_PART, SKIPPED_HANDFUL = 0.05, 5  # training files that may be unusable: the larger of the two
TABLE = ("utt_id", "split", "speaker", "group", "text", "offset", "num_frames")


def preprocess(competition: Competition, features: Features, threads: int | None = None) -> Path:
    """Make the store of a competition, or find it made, and return its directory.

    threads: how many decode at once, all processors by default; the bytes do not depend on it. A killed run goes on
    from its last whole chunk. Raises SettingError for settings that the input cannot give, InputError for input that is
    missing, unusable or unsafe, RunError when the disk is full.
    """
    from src.adapt import usable_cpus

    settings = used_settings(competition, features)
    folder = cache_dir(competition.name)
    with lock(folder / "preprocess.lock", f"preprocess: waiting for another process that works in {folder}"):
        stamps, memory = stamp_files(competition), HashMemory(competition)
        known = memory.known(stamps)
        if 0 < len(known) < len(stamps) and any(folder.glob(f"{settings['kind']}-*")):  # touched rather than new
            known |= hash_files(competition, [path for path in stamps if path not in known])
            memory.save(stamps, known)
        if store := _finished(competition, settings, stamps, known):
            print(f"preprocess: {store} is up to date", flush=True)
            return store
        return _make(competition, features, settings, stamps, memory, known, threads or usable_cpus())


def find_store(competition: Competition, features: Features) -> Path | None:
    """Return the finished store of the competition as it is now; None when there is none, or files are not hashed."""
    settings, stamps = used_settings(competition, features), stamp_files(competition)
    return _finished(competition, settings, stamps, HashMemory(competition).known(stamps))


def used_settings(competition: Competition, features: Features) -> dict[str, Any]:
    """Return the settings that decide the store's frames; raises SettingError for those the input cannot give."""
    if competition.feature_kind == "waveform":
        if features.sample_rate <= 0 or features.hop_length <= 0:
            raise SettingError("features.sample_rate and features.hop_length must be above 0")
        if features.store == "waveform":
            return {"kind": "waveform", "sample_rate": features.sample_rate, "peak_db": features.peak_db,
                    "hop_length": features.hop_length}  # decides no sample, but how long a crop of frames is
        settings = dataclasses.asdict(features)
        return {"kind": settings.pop("store"), **settings}
    if features.store == "waveform":
        raise SettingError(f"features.store=waveform: '{competition.name}' comes as {competition.feature_kind}, which "
                           "cannot be turned back into waveforms; set features.store=logmel")
    if competition.feature_kind == "logmel" and features.num_mels != competition.feature_dim:
        raise SettingError(f"features.num_mels={features.num_mels}: '{competition.name}' comes with "
                           f"{competition.feature_dim} mel bands; set features.num_mels={competition.feature_dim}")
    return {"kind": competition.feature_kind, "dim": competition.feature_dim}


def _digest(competition: Competition, settings: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    return digest([VERSION, settings, content_digest(competition, hashes)])


def _store_dir(competition: Competition, settings: Mapping[str, Any], store_digest: str) -> Path:
    return cache_dir(competition.name) / f"{settings['kind']}-{store_digest[:8]}"


def _finished(competition: Competition, settings: Mapping[str, Any], stamps: Mapping[str, Stamp],
              known: Mapping[str, str]) -> Path | None:
    """Return the store where it is there with all of its frames; the rename made it whole, a disk may have torn it."""
    if len(known) < len(stamps):
        return None
    store_digest = _digest(competition, settings, known)
    store = _store_dir(competition, settings, store_digest)
    try:
        meta = read_json(store / "meta.json")
        whole = meta["digest"] == store_digest and (store / "frames.bin").stat().st_size == meta["num_bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return store if whole else None


def _make(competition: Competition, features: Features, settings: dict[str, Any], stamps: dict[str, Stamp],
          memory: HashMemory, known: dict[str, str], threads: int) -> Path:
    import torch
    from tqdm import tqdm

    from src.reader import Reader

    began, folder = time.monotonic(), cache_dir(competition.name)
    name = digest([VERSION, settings, [(u.utt_id, u.first_frame, u.num_frames) for u in competition.utterances],
                   [(path, *stamps[path]) for path in stamps]])[:8]
    partial = folder / f"partial-{settings['kind']}-{name}"
    for other in folder.glob("partial-*"):  # of other settings or of files as they were; the lock says nobody writes
        if other != partial:
            shutil.rmtree(other)
    chunks = _chunks(competition, stamps)
    writer = StoreWriter(partial, [len(chunk) for chunk in chunks])
    reader = Reader(competition, features, settings, stamps, known)
    num_threads = torch.get_num_threads()
    try:
        done = sum(len(chunk) for chunk in chunks[: len(writer.finished)])
        if done:
            print(f"preprocess: {done:,} of {len(competition.utterances):,} utterances are done already", flush=True)
        with tqdm(total=len(competition.utterances), initial=done, desc="preprocess", unit="utterance",
                  disable=None) as bar:
            todo = chunks[len(writer.finished) :]
            for chunk, parts in _in_order(reader.read, todo, threads):
                writer.append(chunk, parts)
                bar.update(len(chunk.num_frames))
                _check_skipped(competition, writer.finished, chunks, partly=True)
        skipped = _check_skipped(competition, writer.finished, chunks)
        hashes = known | {path: sha256 for chunk in writer.finished for path, sha256 in chunk.sha256.items()}
        rows, store_digest = _rows(competition, writer.finished), _digest(competition, settings, hashes)
        final, num_bytes = _store_dir(competition, settings, store_digest), sum(c.num_bytes for c in writer.finished)
        writer.finish(final, [TABLE, *rows], [("utt_id", "path", "cause"), *skipped], {
            "digest": store_digest, "version": VERSION, "competition": competition.name, "kind": settings["kind"],
            "dim": reader.dim, "num_utterances": len(rows), "num_frames": sum(row[-1] for row in rows),
            "num_bytes": num_bytes, "settings": settings, "summary": _summary(settings, rows),
            "speakers": list(competition.speakers)})
    finally:
        writer.close()
        torch.set_num_threads(num_threads)
    memory.save(stamps, {path: hashes[path] for path in stamps})
    if skipped:
        print(f"preprocess: skipped {len(skipped)} of {_num_train(competition):,} training files that cannot be used "
              f"(all in {final / 'skipped.csv'}):\n{_listing(skipped)}", flush=True)
    for sentence in remark_sentences(_remarks(writer.finished, chunks)):
        print(f"preprocess: {sentence}", flush=True)
    print(f"preprocess: {len(rows):,} utterances, {num_bytes / 1e6:,.0f} MB in {time.monotonic() - began:.1f} s -> "
          f"{final}", flush=True)
    return final


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


def _in_order(read: Callable, chunks: list, threads: int) -> Iterator[tuple[Chunk, list[memoryview]]]:
    """Yield read(chunk) in order, a few chunks ahead, so that memory is bounded whatever the size of the input."""
    import torch

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


def _rows(competition: Competition, finished: list[Chunk]) -> list[tuple]:
    """Return the table: a row for each utterance that is in the store, in the competition's order."""
    rows, offset = [], 0
    lengths = (num_frames for chunk in finished for num_frames in chunk.num_frames)
    for u, num_frames in zip(competition.utterances, lengths):
        if num_frames:
            rows.append((u.utt_id, u.split, u.speaker, u.group, u.text, offset, num_frames))
            offset += num_frames
    return rows


def _summary(settings: Mapping[str, Any], rows: list[tuple]) -> dict[str, Any]:
    """Return what an experiment's "auto" settings are decided from; a finished run is found by it without torch."""
    import numpy as np

    from src.adapt import DataSummary

    speakers, groups, num_frames = zip(*[(row[2], row[3], row[-1]) for row in rows if row[1] == "train"])
    return dataclasses.asdict(DataSummary.of(settings["kind"], np.array(speakers), np.array(num_frames),
                                             settings.get("hop_length", 1), groups))


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


def _remarks(finished: list[Chunk], chunks: list) -> list[tuple[str, str, str]]:
    """Return (path, kind, cause) of what is odd about files that are used all the same."""
    return [(chunk[int(i)].path, kind, cause) for chunk, done in zip(chunks, finished)
            for i, remarks in done.remarks.items() for kind, cause in remarks.items()]


def _num_train(competition: Competition) -> int:
    return sum(utterance.split == "train" for utterance in competition.utterances)


def _listing(skipped: list[tuple]) -> str:
    more = f"\n  … and {len(skipped) - 10} more" if len(skipped) > 10 else ""
    return "\n".join(f"  {path}: {cause}" for _, path, cause in skipped[:10]) + more
