"""Read, hash and decode a competition's files, a chunk of utterances at a time, from several threads at once.

Goes in: utterances. Comes out: their frames as the store keeps them, and what became of each file. Used by preprocess.
"""

import contextlib
import hashlib
import io
import os
import threading
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from src.base.errors import InputError
from src.base.torch_files import CorruptFile
from src.competition.hashes import Stamp, stamp
from src.competition.open import Competition
from src.competition.utterances import Utterance
from src.model.frontend import LogMel
from src.settings.config import Features
from src.store import audio_file as audio
from src.store.sound_files import split_sound
from src.store.tensor_file import read_tensor
from src.store.writer import Chunk

FLOAT16_MAX = 65504.0
LONG_S = 600.0  # audio over ten minutes is decoded one file at a time
MOST_BYTES = 1 << 32  # of one utterance; a wav cannot hold more


class Reader:
    """Reads, hashes and decodes a chunk of utterances; used by several threads at once."""

    def __init__(self, competition: Competition, features: Features, settings: Mapping[str, Any],
                 stamps: Mapping[str, Stamp], known: Mapping[str, str]) -> None:
        self.competition, self.features, self.stamps, self.known = competition, features, stamps, known
        self.kind, self.dim, self.alone = settings["kind"], competition.feature_dim, threading.Lock()
        self.whole_file: tuple[bytes | bytearray, str] | None = None
        if competition.kind == "frames":
            self.whole_file = self._read_file(*stamps)
            self.frames = np.load(io.BytesIO(self.whole_file[0]), allow_pickle=False)
        elif competition.kind == "audio" and self.kind == "logmel":
            self.dim, self.log_mel = features.num_mels, LogMel(features)

    def read(self, utterances: tuple[Utterance, ...]) -> tuple[Chunk, list[memoryview]]:
        """Return a chunk's record and its bytes."""
        num_frames, sha256, skipped, remarks, parts, crc = [], {}, {}, {}, [], 0
        for i, utterance in enumerate(utterances):
            num_frames.append(0)
            odd: dict[str, str] = {}
            try:
                data, sha256[utterance.path] = self.whole_file or self._read_file(utterance.path)
                blocks = self._decode(utterance, data, odd)
            except CorruptFile as cause:
                skipped[str(i)] = str(cause)
                continue
            if odd:
                remarks[str(i)] = odd
            for block in blocks:
                num_frames[-1] += len(block)
                parts.append(memoryview(block).cast("B"))
                crc = zlib.crc32(parts[-1], crc)
        return Chunk(num_frames, sha256, skipped, sum(map(len, parts)), crc, remarks), parts

    def _read_file(self, path: str) -> tuple[bytes | bytearray, str]:
        full_path = self.competition.directory / path
        try:
            with open(full_path, "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                if self.competition.kind != "frames" and status.st_size > MOST_BYTES:
                    raise InputError(f"{full_path}: {status.st_size:,} bytes; one utterance is at most {MOST_BYTES:,}: "
                                     "cut it, or remove it")
                if self.competition.kind == "audio":
                    data = file.readall()
                else:  # torch wants an array that could be written to
                    data = bytearray(status.st_size)
                    num_read = 0
                    while count := file.readinto(memoryview(data)[num_read:]):  # at most 2 GB at once
                        num_read += count
                    del data[num_read:]
        except OSError as error:
            raise InputError(f"{full_path}: {error.strerror}; make it readable, or fetch the data again") from error
        if stamp(status) != self.stamps[path] or len(data) != status.st_size:
            raise InputError(f"{full_path}: changed while it was read; run the same command again")
        return data, self.known.get(path) or hashlib.sha256(data).hexdigest()

    def _decode(self, utterance: Utterance, data: bytes | bytearray, remarks: dict[str, str]) -> list:
        """Return the frames as stored, in one or more numpy blocks; raises CorruptFile for an unusable file.

        remarks: gets {kind: cause} of what is odd about a usable one.
        """
        if self.competition.kind == "audio":
            return self._decode_audio(data, remarks)
        if self.competition.kind == "frames":
            frames = self.frames[utterance.first_frame : utterance.first_frame + utterance.num_frames]
        else:
            try:
                frames = read_tensor(data, utterance.num_frames, self.dim)
            except InputError as error:
                raise InputError(f"{self.competition.directory / utterance.path}: {error}") from error
        if not (frames.min() >= -FLOAT16_MAX and frames.max() <= FLOAT16_MAX):  # NaN fails both
            raise CorruptFile("holds NaN, infinite or absurd values")
        return [torch.from_numpy(frames).half().numpy() if self.kind == "logmel" else frames]

    def _decode_audio(self, data: bytes, remarks: dict[str, str]) -> list:
        parts = split_sound(data, remarks)
        with self.alone if audio.stated_s(parts) > LONG_S else contextlib.nullcontext():
            waveform = audio.standardise(*audio.join(parts, remarks), self.features)
            if self.kind == "waveform":
                return [audio.to_int16(waveform).numpy()]
            return [block.half().contiguous().numpy() for block in self.log_mel.blocks(waveform)]
