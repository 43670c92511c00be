"""The store of degraded copies: each training utterance of a competition in every condition of degrade.py."""

import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from src.base.files import digest, lock
from src.base.workspace import cache_dir
from src.competition.open import Competition
from src.settings.config import Features
from src.store.build import TABLE

if TYPE_CHECKING:
    import numpy as np

    from src.store.store import Store
    from src.store.writer import Chunk

VERSION = 1  # raised when the same run would get other counts; it is part of the store's digest
CHUNK_UTTERANCES = 16
NUM_VOICES, VOICE_S = 64, 20.0  # training utterances that babble is made of, and how much of each


def degraded_store(competition: Competition, clean: "Store") -> Path:
    """Make the store of the training utterances of `clean` in every condition, or find it made; return its folder.

    Its features are those of `clean`, its utterances are called <condition>/<utt_id>. Raises RunError when the disk is
    full; the same command goes on from there.
    """
    from src.shift import degrade

    store_digest = digest(["conditions", VERSION, degrade.VERSION, clean.digest])
    folder = cache_dir(competition.name)
    final = folder / f"conditions-{store_digest[:8]}"
    with lock(folder / "conditions.lock", f"conditions: waiting for another process that works in {folder}"):
        if not (final / "meta.json").exists():
            _make(competition, clean, final, store_digest)
    return final


def copy_id(condition: str, utt_id: str) -> str:
    return f"{condition}/{utt_id}"


def _make(competition: Competition, clean: "Store", final: Path, store_digest: str) -> None:
    import torch
    from tqdm import tqdm

    from src.base.machine import usable_cpus
    from src.shift.degrade import CONDITIONS
    from src.store.writer import StoreWriter

    rows = clean.train_rows
    chunks = [rows[i : i + CHUNK_UTTERANCES] for i in range(0, len(rows), CHUNK_UTTERANCES)]
    writer = StoreWriter(final.with_suffix(".partial"), [len(chunk) * len(CONDITIONS) for chunk in chunks])
    num_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(usable_cpus(), initializer=torch.set_num_threads, initargs=(1,))
    try:
        reader = _DegradedReader(competition, clean)
        todo = chunks[len(writer.finished) :]
        with tqdm(total=len(rows), initial=len(rows) - sum(map(len, todo)), desc="degrade", unit="utterance",
                  disable=None) as bar:
            for chunk, parts in pool.map(reader.read, todo):
                writer.append(chunk, parts)
                bar.update(len(chunk.num_frames) // len(CONDITIONS))
        num_frames = [count for chunk in writer.finished for count in chunk.num_frames]
        copies = [(condition, row) for row in rows for condition in CONDITIONS]
        table, offset = [TABLE], 0
        for (condition, row), count in zip(copies, num_frames):
            table.append((copy_id(condition, clean.utt_ids[row]), "train", clean.speakers[clean.labels[row]],
                          clean.groups[row], clean.texts[row], offset, count))
            offset += count
        writer.finish(final, table, [("utt_id", "path", "cause")], {
            "digest": store_digest, "version": VERSION, "competition": competition.name, "kind": clean.kind,
            "dim": clean.dim, "num_utterances": len(copies), "num_frames": offset,
            "num_bytes": sum(chunk.num_bytes for chunk in writer.finished), "settings": clean.settings,
            "speakers": list(clean.speakers)})
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        writer.close()
        torch.set_num_threads(num_threads)


class _DegradedReader:
    """Reads utterances and degrades them, from several threads at once."""

    def __init__(self, competition: Competition, clean: "Store") -> None:
        from src.model.frontend import LogMel
        from src.shift.degrade import SAMPLE_RATE

        settings = {key: value for key, value in clean.settings.items() if key != "kind"}
        self.features = Features(store=clean.kind, **settings)
        self.clean, self.directory = clean, competition.directory
        self.paths = {u.utt_id: u.path for u in competition.utterances if u.split == "train"}
        self.log_mel = LogMel(self.features) if clean.kind == "logmel" else None
        self.voice_rows = self._draw_voices()
        self.voices = [self._waveform(row)[: int(VOICE_S * SAMPLE_RATE)] for row in self.voice_rows]

    def _draw_voices(self) -> list[int]:
        """Return the rows of NUM_VOICES utterances, of as many speakers as there are."""
        import numpy as np

        rows = np.random.default_rng(0).permutation(self.clean.train_rows).tolist()
        heard: Counter = Counter()
        turns = {}
        for row in rows:
            turns[row] = heard[self.clean.labels[row]]
            heard[self.clean.labels[row]] += 1
        return sorted(rows, key=turns.__getitem__)[:NUM_VOICES]

    def _waveform(self, row: int) -> "np.ndarray":
        from src.shift.degrade import PEAK_DB, SAMPLE_RATE
        from src.store import audio_file as audio

        data = (self.directory / self.paths[self.clean.utt_ids[row]]).read_bytes()
        heard = replace(self.features, sample_rate=SAMPLE_RATE, peak_db=PEAK_DB)
        return audio.standardise(*audio.decode(data), heard).numpy()

    def read(self, rows: "np.ndarray") -> "tuple[Chunk, list[memoryview]]":
        """Return the record and the bytes of a chunk: each of `rows` in every condition."""
        from src.shift.degrade import CONDITIONS, degrade, generator
        from src.store.writer import Chunk

        num_frames, parts, crc = [], [], 0
        for row in rows.tolist():
            waveform, utt_id = self._waveform(row), self.clean.utt_ids[row]
            voices = [voice for other, voice in zip(self.voice_rows, self.voices)
                      if self.clean.labels[other] != self.clean.labels[row]]
            for condition in CONDITIONS:
                degraded = degrade(waveform, condition, generator(condition, utt_id), voices)
                num_frames.append(0)
                for block in self._stored(degraded):
                    num_frames[-1] += len(block)
                    parts.append(memoryview(block).cast("B"))
                    crc = zlib.crc32(parts[-1], crc)
        return Chunk(num_frames, {}, {}, sum(map(len, parts)), crc), parts

    def _stored(self, waveform: "np.ndarray") -> "list[np.ndarray]":
        """Return a waveform as the store keeps it, in one or more blocks."""
        from src.shift.degrade import SAMPLE_RATE
        from src.store import audio_file as audio

        scaled = audio.standardise(waveform, SAMPLE_RATE, self.features)
        if self.log_mel is None:
            return [audio.to_int16(scaled).numpy()]
        return [block.half().contiguous().numpy() for block in self.log_mel.blocks(scaled)]
