"""The store of degraded copies: each training utterance of a competition in every condition of degrade.py."""

import contextlib
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from src.base.files import digest, lock
from src.base.machine import usable_cpus
from src.base.workspace import cache_dir
from src.competition.open import Competition
from src.competition.utterances import Utterance
from src.model.frontend import LogMel
from src.settings.config import Features
from src.shift import degrade
from src.store import audio_file as audio
from src.store.build import SKIPPED, TABLE, counts_of, fill, rows_of
from src.store.table import Table
from src.store.writer import Chunk, StoreWriter

VERSION = 1  # raised when the same run would get other counts; it is part of the store's digest
CHUNK_UTTERANCES = 16
NUM_VOICES, VOICE_S = 64, 20.0  # training utterances that babble is made of, and how much of each


def degraded_store(competition: Competition, clean: Table) -> Path:
    """Make the store of the training utterances of `clean` in every condition, or find it made; return its folder.

    Its features are those of `clean`, its utterances are called <condition>/<utt_id>. Raises RunError when the disk is
    full; the same command goes on from there.
    """
    store_digest = digest(["conditions", VERSION, degrade.VERSION, clean.digest])
    folder = cache_dir(competition.name)
    final = folder / f"conditions-{store_digest[:8]}"
    with lock(folder / "conditions.lock", f"conditions: waiting for another process that works in {folder}"):
        if not (final / "meta.json").exists():
            _make(competition, clean, final, store_digest)
    return final


def copy_id(condition: str, utt_id: str) -> str:
    """Return the utt_id of an utterance's copy in a condition."""
    return f"{condition}/{utt_id}"


def _make(competition: Competition, clean: Table, final: Path, store_digest: str) -> None:
    rows, num_copies = clean.train_rows, len(degrade.CONDITIONS)
    chunks = [rows[i : i + CHUNK_UTTERANCES] for i in range(0, len(rows), CHUNK_UTTERANCES)]
    reader = _DegradedReader(competition, clean)
    sizes = [len(chunk) * num_copies for chunk in chunks]
    with contextlib.closing(StoreWriter(final.with_suffix(".partial"), sizes)) as writer:
        fill(writer, chunks, reader.read, usable_cpus(), "degrade")
        table = rows_of(_copies(clean), writer)
        writer.finish(final, {"table.csv": [TABLE, *table], "skipped.csv": [SKIPPED]}, {
            "digest": store_digest, "version": VERSION, "competition": competition.name, "kind": clean.kind,
            "dim": clean.dim, **counts_of(table, writer), "settings": clean.settings,
            "speakers": list(clean.speakers)})


def _copies(clean: Table) -> list[Utterance]:
    """Return the utterances of the degraded store in its order."""
    return [Utterance(copy_id(condition, clean.utt_ids[row]), "", "train", clean.speakers[clean.labels[row]],
                      clean.groups[row], clean.texts[row]) for row in clean.train_rows
            for condition in degrade.CONDITIONS]


class _DegradedReader:
    """Reads utterances and degrades them, from several threads at once."""

    def __init__(self, competition: Competition, clean: Table) -> None:
        settings = {key: value for key, value in clean.settings.items() if key != "kind"}
        self.features = Features(store=clean.kind, **settings)
        self.clean, self.directory = clean, competition.directory
        self.paths = {u.utt_id: u.path for u in competition.utterances if u.split == "train"}
        self.log_mel = LogMel(self.features) if clean.kind == "logmel" else None
        self.voice_rows = self._draw_voices()
        self.voices = [self._waveform(row)[: int(VOICE_S * degrade.SAMPLE_RATE)] for row in self.voice_rows]

    def _draw_voices(self) -> list[int]:
        """Return the rows of NUM_VOICES utterances, of as many speakers as there are."""
        rows = np.random.default_rng(0).permutation(self.clean.train_rows).tolist()
        heard: Counter = Counter()
        turns = {}
        for row in rows:
            turns[row] = heard[self.clean.labels[row]]
            heard[self.clean.labels[row]] += 1
        return sorted(rows, key=turns.__getitem__)[:NUM_VOICES]

    def _waveform(self, row: int) -> np.ndarray:
        data = (self.directory / self.paths[self.clean.utt_ids[row]]).read_bytes()
        heard = replace(self.features, sample_rate=degrade.SAMPLE_RATE, peak_db=degrade.PEAK_DB)
        return audio.standardise(*audio.decode(data), heard).numpy()

    def read(self, rows: np.ndarray) -> tuple[Chunk, list[memoryview]]:
        """Return the record and the bytes of a chunk: each of `rows` in every condition."""
        num_frames, parts, crc = [], [], 0
        for row in rows.tolist():
            waveform, utt_id = self._waveform(row), self.clean.utt_ids[row]
            voices = [voice for other, voice in zip(self.voice_rows, self.voices)
                      if self.clean.labels[other] != self.clean.labels[row]]
            for condition in degrade.CONDITIONS:
                rng = degrade.generator(condition, utt_id)
                num_frames.append(0)
                for block in self._stored(degrade.degrade(waveform, condition, rng, voices)):
                    num_frames[-1] += len(block)
                    parts.append(memoryview(block).cast("B"))
                    crc = zlib.crc32(parts[-1], crc)
        return Chunk(num_frames, {}, {}, sum(map(len, parts)), crc), parts

    def _stored(self, waveform: np.ndarray) -> list[np.ndarray]:
        """Return a waveform as the store keeps it, in one or more blocks."""
        scaled = audio.standardise(waveform, degrade.SAMPLE_RATE, self.features)
        if self.log_mel is None:
            return [audio.to_int16(scaled).numpy()]
        return [block.half().contiguous().numpy() for block in self.log_mel.blocks(scaled)]
