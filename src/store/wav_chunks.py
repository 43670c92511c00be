"""Hold what a wav and its kin state of their length against what is there, and cut joined wavs.

Goes in: the bytes of a file made of chunks (wav as RIFF, RIFX or RF64; aiff, w64, caf), of an .au or of a NIST sphere.
Comes out: its parts, with lengths that libsndfile understands. A wrong length of a file that is all there is told from
a truncated file by evidence: the length of the whole file, which stands in a field of its own, the bytes that a sample
takes, and the errors that writers are known to make.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from src.base.torch_files import CorruptFile
from src.store.mp3_frames import split_mp3
from src.store.remarks import LEFT_OVER, WRONG_HEADER, remark
from src.store.sound_part import UNEXPLAINED_BYTES, Part, is_blank

STREAMED_BYTES = 0x7FFFF000 - 64  # a wav written to a pipe states a size from here on, or 0: its writer did not know
UNKNOWN_BYTES = 0x7F000000  # the same of other files; sox writes 0x7F000000
MP3_IN_WAV = 0x55  # its coding, as the format chunk names it
NIST_HEAD = 1024  # bytes; longer ones are allowed, and then some missing bytes go unnoticed
W64_NAME = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # what follows "data" and all other names of a w64


@dataclass(frozen=True)
class Layout:
    """How a family of files writes its chunks.

    first: where the first one begins. name_bytes, size: its head. counts_head: its size includes that. align: where
    the next one may begin. outer: where the length of the whole file stands, -1 for nowhere. sound: what the chunk of
    samples is called.
    """

    first: int
    name_bytes: int
    size: struct.Struct
    counts_head: bool
    align: int
    outer: int
    sound: bytes


WAV = Layout(12, 4, struct.Struct("<I"), False, 2, 4, b"data")
BIG_ENDIAN_WAV = Layout(12, 4, struct.Struct(">I"), False, 2, 4, b"data")
WAVS = {b"RIFF": WAV, b"RF64": WAV, b"BW64": WAV, b"RIFX": BIG_ENDIAN_WAV}
LARGE_WAVS = (b"RF64", b"BW64")  # whose sizes stand in a chunk of their own
OTHERS = {
    b"FORM": Layout(12, 4, struct.Struct(">I"), False, 2, 4, b"SSND"),
    b"riff": Layout(40, 16, struct.Struct("<Q"), True, 8, 16, b"data" + W64_NAME),
    b"caff": Layout(8, 4, struct.Struct(">q"), False, 1, -1, b"data"),
}
AUS = {b".snd": "big", b"dns.": "little"}
CHECKED = {*OTHERS, *AUS, b"NIST"}  # how the files begin of which check_length knows the length


@dataclass(frozen=True)
class Sound:
    """Where the samples of a file begin, how many bytes of them its header states, and how long the file is by it.

    length: 0 where no header states it. block: bytes of a sample of all channels. coding: a wav's number for it.
    """

    begin: int
    size: int
    length: int = 0
    block: int = 1
    coding: int = 0


def split_wav(data: bytes, remarks: dict[str, str]) -> Iterator[Part]:
    """Yield the wavs joined in `data`; raises CorruptFile for one with fewer samples than its header states."""
    begin = 0
    while begin < len(data):
        end = begin + 8 + int.from_bytes(data[begin + 4 : begin + 8], _order(WAVS[data[begin : begin + 4]]))
        if data[end : end + 4] not in WAVS or data[end + 8 : end + 12] != b"WAVE":
            end = len(data)
        yield from _whole_wav(data[begin:end], remarks)
        begin = end


def check_length(data: bytes, remarks: dict[str, str]) -> Iterator[Part]:
    """Yield a file of another kind as it is; raises CorruptFile where its samples end before its header says."""
    sound = _sound(data)
    if sound and 0 < sound.size < (UNKNOWN_BYTES if data[:4] != b"caff" else 1 << 62):
        _check_end(sound, data, remarks)
    yield Part(data)


def _whole_wav(data: bytes, remarks: dict[str, str]) -> Iterator[Part]:
    """Yield a wav whose header states the samples that are there."""
    sound = _wav_sound(data)
    if sound is None:
        yield Part(data)  # libsndfile says what is wrong
        return
    size = _true_size(data, sound, remarks)
    if sound.coding == MP3_IN_WAV:
        yield from split_mp3(data[sound.begin : sound.begin + size], remarks)
    elif size > sound.size or (sound.size >= STREAMED_BYTES and data[:4] in LARGE_WAVS):
        yield Part(_restated(data, sound))
    else:
        yield Part(data)


def _true_size(data: bytes, sound: Sound, remarks: dict[str, str]) -> int:
    """Return how many bytes of samples a wav holds; raises CorruptFile where its header states more for good reason."""
    there, end = len(data) - sound.begin, sound.begin + sound.size
    is_piped = sound.size >= STREAMED_BYTES or (sound.size == 0 and sound.length <= sound.begin)
    if is_piped:
        return there
    if sound.size > there:
        _check_end(sound, data, remarks)
        return there
    if not _is_unexplained(data, end, 0 if sound.size == 0 else UNEXPLAINED_BYTES):
        return sound.size
    if sound.length < len(data) - 1:
        remark(remarks, LEFT_OVER, f"{len(data) - end:,} bytes behind the end that its header states")
        return sound.size
    remark(remarks, WRONG_HEADER, f"its header states {sound.size:,} bytes of samples, there are {there:,}")
    return there


def _check_end(sound: Sound, data: bytes, remarks: dict[str, str]) -> None:
    """Raise CorruptFile for a file that was cut off; one that is all there has a wrong size in its header."""
    there = len(data) - sound.begin
    missing = sound.size - there
    if missing <= 0:
        return
    is_whole_file = sound.length and sound.length - len(data) in (0, sound.size % 2)  # a pad byte may not be written
    is_whole_samples = sound.size // sound.block <= there // sound.block
    counts_heads = missing in (8, sound.begin - 8, sound.begin)  # the chunk's own head, the file's, or both
    if not (is_whole_file or is_whole_samples or counts_heads):
        raise CorruptFile(f"truncated: {there} of {sound.size} bytes of samples")
    remark(remarks, WRONG_HEADER, f"its header states {sound.size:,} bytes of samples, there are {there:,}")


def _is_unexplained(data: bytes, end: int, least: int) -> bool:
    """Tell whether more than `least` bytes follow the samples of a wav, and are neither another chunk nor tags."""
    begins = end, end + end % 2  # a pad byte may be missing
    return len(data) - end > least and not any(_is_chunk(data, at) or is_blank(data, at) for at in begins)


def _is_chunk(data: bytes, position: int) -> bool:
    """Tell whether a chunk of a wav may stand at `position`: a name of letters, and a size that fits."""
    head, order = data[position : position + 8], _order(WAVS[data[:4]])
    return (len(head) == 8 and all(0x20 <= letter < 0x7F for letter in head[:4])
            and position + 8 + int.from_bytes(head[4:], order) <= len(data) + 1)


def _restated(data: bytes, sound: Sound) -> bytes:
    """Return a wav whose samples reach to the end of the file."""
    layout = WAVS[data[:4]]
    magic, heads = data[:4], data[12 : sound.begin - 4]
    if magic in LARGE_WAVS:
        magic = b"RIFF"
        heads = b"".join(data[begin - 8 : begin + size + size % 2] for name, begin, size in _chunks(data, layout)
                         if begin < sound.begin and name != b"ds64") + b"data"
    sizes = [layout.size.pack(min(size, 0xFFFFFFFF))
             for size in (4 + len(heads) + 4 + len(data) - sound.begin, len(data) - sound.begin)]
    return b"".join((magic, sizes[0], b"WAVE", heads, sizes[1], data[sound.begin :]))


def _wav_sound(data: bytes) -> Sound | None:
    """Return where the samples of a wav are; None where it has no such chunk."""
    layout = WAVS[data[:4]]
    length, block, coding, large = 8 + int.from_bytes(data[4:8], _order(layout)), 1, 0, None
    for name, begin, size in _chunks(data, layout):
        if name == b"fmt " and begin + 16 <= len(data):
            coding = int.from_bytes(data[begin : begin + 2], _order(layout))
            block = int.from_bytes(data[begin + 12 : begin + 14], _order(layout)) or 1
        elif name == b"ds64" and begin + 16 <= len(data):
            large = struct.unpack_from("<QQ", data, begin)
        elif name == layout.sound:
            if data[:4] in LARGE_WAVS and large:
                length, size = 8 + large[0], large[1] or STREAMED_BYTES
            return Sound(begin, size, length, block, coding)
    return None


def _sound(data: bytes) -> Sound | None:
    """Return where the samples of another file are; None for files that do not say."""
    if layout := OTHERS.get(data[:4]):
        length = 0
        if layout.outer >= 0 and len(data) >= layout.first:
            length = layout.size.unpack_from(data, layout.outer)[0] + (0 if layout.counts_head else 8)
        return next((Sound(begin, size, length) for name, begin, size in _chunks(data, layout) if name == layout.sound),
                    None)
    if order := AUS.get(data[:4]):
        return Sound(int.from_bytes(data[4:8], order), int.from_bytes(data[8:12], order))
    if data[:7] == b"NIST_1A":
        fields = dict(re.findall(rb"^(\w+) -\w+ (\S+)", data[:NIST_HEAD], re.MULTILINE))
        counts = [fields.get(name, b"") for name in (b"sample_count", b"sample_n_bytes", b"channel_count")]
        if all(count.isdigit() for count in counts) and b"," not in fields.get(b"sample_coding", b"pcm"):
            num_samples, num_bytes, num_channels = map(int, counts)
            return Sound(NIST_HEAD, num_samples * num_bytes * num_channels)
    return None


def _chunks(data: bytes, layout: Layout) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, the begin and the size of each chunk's content."""
    position, head_bytes = layout.first, layout.name_bytes + layout.size.size
    while position + head_bytes <= len(data):
        name = data[position : position + layout.name_bytes]
        size = layout.size.unpack_from(data, position + layout.name_bytes)[0]
        size -= head_bytes if layout.counts_head else 0
        position += head_bytes
        yield name, position, size
        if size < 0:
            return
        position += size
        position += -position % layout.align


def _order(layout: Layout) -> str:
    return "big" if layout is BIG_ENDIAN_WAV else "little"
