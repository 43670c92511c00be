"""Write a store so that a kill at any moment costs at most the chunks in flight.

Goes in: finished chunks, in order. Comes out: a store's directory, whole or absent. Until it is whole it is a
`partial-…` directory of frames.bin and journal.jsonl, one line a chunk with the CRC-32 of the chunk's bytes and of the
line itself. Opening it again keeps every chunk whose line and bytes are whole and drops the rest.
"""

import csv
import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.base.errors import RunError
from src.base.files import atomic_open, write_json

FLUSH_BYTES = 1 << 27  # the disk writes while the next chunks are computed: half of the time of one flush at the end
READ_BYTES = 1 << 24


@dataclass(frozen=True)
class Chunk:
    """What became of one chunk of utterances.

    num_frames: of each utterance, 0 for a skipped one. sha256: of each file hashed. skipped: {place in the chunk, as
    text: cause}. num_bytes and crc32: of its part of frames.bin. remarks: {place in the chunk, as text: {kind: cause}}
    of what is odd about a file that is used all the same.
    """

    num_frames: list[int]
    sha256: dict[str, str]
    skipped: dict[str, str]
    num_bytes: int
    crc32: int
    remarks: dict[str, dict[str, str]] = field(default_factory=dict)


class StoreWriter:
    """A store in the making; `finished` holds the chunks that are safely in it."""

    def __init__(self, directory: Path, chunk_sizes: Sequence[int]) -> None:
        self.directory, self.chunk_sizes = directory, chunk_sizes
        self.finished: list[Chunk] = []
        with self._disk():
            directory.mkdir(parents=True, exist_ok=True)
            self._frames = open(directory / "frames.bin", "a+b", buffering=0)  # noqa: SIM115 (closed by `close`)
            self._journal = open(directory / "journal.jsonl", "a+b", buffering=0)  # noqa: SIM115
            self._resume()
        self._flusher, self._flush, self._unflushed = ThreadPoolExecutor(1), Future(), 0
        self._flush.set_result(None)

    def _resume(self) -> None:
        self._frames.seek(0)
        self._journal.seek(0)
        position = lines = 0
        for line in self._journal.read().splitlines(keepends=True):
            chunk = _from_line(line)
            if (chunk is None or len(self.finished) == len(self.chunk_sizes)
                    or len(chunk.num_frames) != self.chunk_sizes[len(self.finished)]
                    or self._crc(chunk.num_bytes) != chunk.crc32):
                break
            self.finished.append(chunk)
            position, lines = position + chunk.num_bytes, lines + len(line)
        self._frames.truncate(position)
        self._journal.truncate(lines)

    def _crc(self, num_bytes: int) -> int:
        """Return the CRC-32 of the next bytes of frames.bin; one of fewer bytes differs."""
        crc = 0
        while num_bytes > 0 and (block := self._frames.read(min(num_bytes, READ_BYTES))):
            crc, num_bytes = zlib.crc32(block, crc), num_bytes - len(block)
        return crc if num_bytes == 0 else -1

    def append(self, chunk: Chunk, parts: Iterable[memoryview]) -> None:
        """Append a chunk's bytes and then its journal line; raises RunError when the disk is full."""
        with self._disk():
            for part in parts:
                _write(self._frames, part)
            _write(self._journal, memoryview(_to_line(chunk)))
        self.finished.append(chunk)
        self._unflushed += chunk.num_bytes
        if self._unflushed >= FLUSH_BYTES and self._flush.done():
            with self._disk():
                self._flush.result()  # of the last one; its error would be lost
            self._unflushed, self._flush = 0, self._flusher.submit(os.fsync, self._frames.fileno())

    def finish(self, final: Path, table: Iterable[Sequence[Any]], skipped: Sequence[Sequence[str]], meta: Any) -> None:
        """Write the tables, bring everything to the disk and rename the directory to `final`."""
        with self._disk():
            for name, rows in (("table.csv", table), ("skipped.csv", skipped)):
                with atomic_open(self.directory / name) as file:
                    csv.writer(file, lineterminator="\n").writerows(rows)
            write_json(self.directory / "meta.json", meta)
            self._flush.result()
            os.fsync(self._frames.fileno())
            self.close()
            if final.exists():  # torn, or it would have been used
                shutil.rmtree(final)
            os.rename(self.directory, final)
            descriptor = os.open(final.parent, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            (final / "journal.jsonl").unlink()

    def close(self) -> None:
        """Close the files; what was appended stays for the next run."""
        self._flusher.shutdown(wait=True)
        self._frames.close()
        self._journal.close()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            done = f"{sum(self.chunk_sizes[: len(self.finished)])} of {sum(self.chunk_sizes)} utterances are done"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise RunError(f"{self.directory}: the disk is full; {done}. Make room, or point the folder to another "
                               "disk, and run the same command again: it goes on from there") from error
            raise RunError(f"{self.directory}: cannot be written ({error.strerror}); {done}. Put this right and run "
                           "the same command again: it goes on from there") from error


def _to_line(chunk: Chunk) -> bytes:
    content = json.dumps(vars(chunk))
    return f"[{zlib.crc32(content.encode())}, {content}]\n".encode()


def _from_line(line: bytes) -> Chunk | None:
    """Return the chunk of a journal line that is as it was written, None for any other."""
    try:
        chunk = Chunk(**json.loads(line)[1])
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return chunk if line == _to_line(chunk) else None


def _write(file: Any, part: memoryview) -> None:
    """Write all of `part`; a raw write may stop short, just before a disk is full."""
    while part.nbytes:
        part = part[file.write(part) :]
