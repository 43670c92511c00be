"""Find out how long a flac file is by its last frame (RFC 9639), and cut joined files.

Goes in: the bytes of a flac file. Come out: the files that were joined into it, with the number of samples in their
headers, without which libsndfile cannot read it: FFmpeg states none where it writes to a pipe. The last frame is
looked for from the end of the file backwards and known by its checksums.
"""

import functools
import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from src.base.torch_files import CorruptFile
from src.store.remarks import WRONG_HEADER, remark
from src.store.sound_part import TAG_BYTES, Part

BEGIN = re.compile(rb"fLaC[\0\x80]\0\0\x22")  # what follows is STREAMINFO, of 34 bytes
SYNC = b"\xf8", b"\xf9"  # the second byte of a frame, whose blocks are all of one size, or of several
TOTAL = slice(18, 26)  # of the file; the lower 36 bits of it are the number of samples
LARGEST_FRAME = 1 << 18  # bytes; 8 channels of 4,608 samples of 32 bits take 150 kB
TRIES = 64  # frames of which the checksum is computed
BLOCK_SAMPLES = (0, 192, 576, 1152, 2304, 4608, 0, 0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
BLOCK_BYTES, RATE_BYTES = {6: 1, 7: 2}, {12: 1, 13: 2, 14: 2}  # at the end of a frame's header, by the codes in it


class Frame(NamedTuple):
    """A frame of a flac file: where it begins, its first sample and the sample behind its last."""

    position: int
    first: int
    end: int


def split_flac(data: bytes, remarks: dict[str, str]) -> Iterator[Part]:
    """Yield the flac files joined in `data`, each with the number of samples that its frames hold.

    Raises CorruptFile for one that ends within a frame, or before the samples that its header states.
    """
    starts = [match.start() for match in BEGIN.finditer(data)]
    if not starts or starts[0]:
        yield Part(data)  # libsndfile says what is wrong
        return
    for start, end in zip(starts, [*starts[1:], len(data)]):
        yield Part(_counted(data[start:end], remarks))


def _counted(data: bytes, remarks: dict[str, str]) -> bytes:
    """Return a flac file whose header states the samples that are there."""
    stated = int.from_bytes(data[TOTAL]) & ((1 << 36) - 1)
    last = next(_frames_from_the_end(data), None)
    if last and last.end == stated:
        return data
    if data[-TAG_BYTES:].startswith(b"TAG"):
        data = data[:-TAG_BYTES]
    tail = int.from_bytes(data[-2:])
    whole = (frame for frame in islice(_frames_from_the_end(data), TRIES)
             if _crc(data[frame.position : -2], 0x8005, 16) == tail)
    if not (last := next(whole, None)):
        if not stated:
            raise CorruptFile("truncated: the last flac frame is torn")
        return data  # libsndfile says what is wrong
    block_samples = int.from_bytes(data[10:12])
    if last.end < stated and last.end - last.first == block_samples:  # an encoder's last block is shorter
        raise CorruptFile(f"truncated: {last.end} of {stated} samples")
    remark(remarks, WRONG_HEADER, f"its header states {stated:,} samples, its frames hold {last.end:,}")
    total = (int.from_bytes(data[TOTAL]) >> 36 << 36) | last.end
    return data[: TOTAL.start] + total.to_bytes(8) + data[TOTAL.stop :]


def _frames_from_the_end(data: bytes) -> Iterator[Frame]:
    """Yield what looks like a frame, the last first; in one of some thousands the sound itself looks like one."""
    position = len(data)
    first = max(0, position - LARGEST_FRAME)
    while (position := data.rfind(b"\xff", first, position)) >= 0:
        if data[position + 1 : position + 2] in SYNC and (frame := _frame_at(data, position)):
            yield frame


def _frame_at(data: bytes, position: int) -> Frame | None:
    """Return the frame whose sync code stands at `position`, None where no header of the right checksum follows."""
    head = data[position : position + 16].ljust(16, b"\0")  # a frame of silence is shorter
    if head[2] < 0x10 or head[3] & 1:
        return None
    num_ones = 8 - (head[4] ^ 0xFF).bit_length()  # as in UTF-8: so many bytes, 0 for a single one
    if num_ones == 1 or num_ones == 8:
        return None
    number = head[4] & (0x7F >> num_ones)
    place = 5
    for _ in range(num_ones - 1):
        number = number << 6 | head[place] & 0x3F
        place += 1
    block, block_bytes = head[2] >> 4, BLOCK_BYTES.get(head[2] >> 4, 0)
    num_samples = BLOCK_SAMPLES[block] or int.from_bytes(head[place : place + block_bytes]) + 1
    place += block_bytes + RATE_BYTES.get(head[2] & 15, 0)
    if place >= 16 or _crc(head[:place], 0x07, 8) != head[place]:
        return None
    if not head[1] & 1:  # numbered by blocks, which are all of one size but the last
        number *= int.from_bytes(data[10:12])
        if data[8:10] != data[10:12]:
            return None
    return Frame(position, number, number + num_samples)


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    """Return a checksum whose highest bit comes first and which begins at 0."""
    table, register, mask = _crc_table(polynomial, bits), 0, (1 << bits) - 1
    for byte in data:
        register = (register << 8) & mask ^ table[register >> (bits - 8) ^ byte]
    return register


@functools.cache
def _crc_table(polynomial: int, bits: int) -> tuple[int, ...]:
    table = []
    for byte in range(256):
        register = byte << (bits - 8)
        for _ in range(8):
            register = register << 1 ^ (polynomial | 1 << bits if register >> (bits - 1) else 0)
        table.append(register)
    return tuple(table)
