"""Walk the frames of an mp3 (ISO 11172-3, 13818-3), so that its length is what they say and not an estimate.

Goes in: the bytes of an mp3 (or of MPEG layer I and II). Come out: the streams that were joined into it, without
tags. libsndfile believes a Xing/Info header, and where there is none estimates the length by the first frame's
bit rate; the rest of a file of variable rate is then lost. It estimates enough where a frame of the lowest rate stands
in front, which is what a part's `lead` is for.
"""

import functools
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from src.base.torch_files import CorruptFile
from src.store.remarks import LEFT_OVER, TORN_END, WRONG_HEADER, remark
from src.store.sound_part import UNEXPLAINED_BYTES, Part, after_tags, is_blank

KBITS = {  # by MPEG 1 or not, and layer
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {0: (11025, 12000, 8000), 2: (22050, 24000, 16000), 3: (44100, 48000, 32000)}  # by version: 2.5, 2 and 1
MOST_TRIMMED = 9216  # samples that a Xing/Info header lets a decoder drop at both ends, twice 4,095 and its own delay
TRIES_AHEAD = 100  # letters that might be a header's, looked at for the next header
LEAD_FRAMES = 8  # after which the filter bank's ring buffer stands as at the start: not a bit of the sound changes
TRIES = 1 << 20  # bytes that might begin a frame, looked at before the search is given up
RUN_FRAMES = 4  # so many of a kind, one after another, are no chance
FRONT_BYTES = 1 << 16  # in which they make an mp3 of bytes that begin as nothing that is known


@dataclass(frozen=True)
class Kind:
    """What all frames of a stream share: the version and layer bits, the rate's index, and whether it is mono."""

    version: int
    layer: int
    rate: int
    is_mono: bool

    @property
    def num_samples(self) -> int:
        """Return the samples of a frame, per channel."""
        return 384 if self.layer == 1 else 1152 if self.layer == 2 or self.version == 3 else 576

    @functools.cached_property
    def sizes(self) -> list[int]:
        """Return a frame's bytes by the third byte of its header, 0 where that is not this kind's."""
        hertz, kbits = RATES[self.version][self.rate], (0, *KBITS[self.version == 3, self.layer], 0)
        sizes = []
        for byte in range(256):
            padding = byte >> 1 & 1
            if byte >> 2 & 3 != self.rate or not kbits[byte >> 4]:
                sizes.append(0)
            elif self.layer == 1:
                sizes.append(4 * (12_000 * kbits[byte >> 4] // hertz + padding))
            else:
                sizes.append(self.num_samples * 125 * kbits[byte >> 4] // hertz + padding)
        return sizes

    @property
    def info_place(self) -> int:
        """Return where in a frame a Xing/Info header stands."""
        return 4 + ((17 if self.is_mono else 32) if self.version == 3 else (9 if self.is_mono else 17))

    @property
    def silence(self) -> bytes:
        """Return LEAD_FRAMES silent frames of the lowest rate."""
        head = (0xFF, 0xE1 | self.version << 3 | (4 - self.layer) << 1, 0x10 | self.rate << 2,
                0xC0 if self.is_mono else 0)
        return bytes(head).ljust(self.sizes[head[2]], b"\0") * LEAD_FRAMES


@dataclass
class Run:
    """Frames of one kind, one after another: the pieces of the file (start, end) in which they stand."""

    kind: Kind
    pieces: list[tuple[int, int]] = field(default_factory=list)
    num_frames: int = 0
    is_torn: bool = False


def split_mp3(data: bytes, remarks: dict[str, str]) -> Iterator[Part]:
    """Yield the streams joined in `data`, each of whole frames.

    Raises CorruptFile for fewer frames than a header states, and where something else stands in the midst of a stream.
    """
    run = None
    for run in _runs(data, remarks):
        yield _part(data, run, remarks)
    if run is None:  # frames of a free bit rate, or no mp3: libsndfile knows
        yield Part(data, is_guessed=b"Xing" not in data[:8192] and b"Info" not in data[:8192])


def is_mp3(data: bytes) -> bool:
    """Tell whether bytes of no known beginning turn out to be frames a little later."""
    return _next_run(data[:FRONT_BYTES], 0) is not None


def _runs(data: bytes, remarks: dict[str, str]) -> Iterator[Run]:
    """Yield the runs of frames; another begins where the kind changes, and at a frame that holds a Xing/Info header."""
    headers = sorted(place for magic in (b"Xing", b"Info") for place in _all(data, magic))
    run, position = None, 0
    while (start := _next_run(data, position)) is not None:
        kind = _kind_at(data, start)
        skipped = start - after_tags(data, position)
        info = bisect_left(headers, start + kind.info_place)
        if run is None or kind != run.kind or headers[info : info + 1] == [start + kind.info_place]:
            if run is not None:
                yield run
            run = Run(kind)
        elif skipped > UNEXPLAINED_BYTES:
            raise CorruptFile(f"changed: {skipped:,} bytes in the midst of it are no mp3 frames")
        begins = (place - kind.info_place for place in headers[info : info + TRIES_AHEAD])
        end = next((begin for begin in begins if begin > start and _kind_at(data, begin) == kind), len(data))
        position = _walk(data, start, end, run)
    if run is not None:
        if not run.is_torn and not is_blank(data, position) and len(data) - position > UNEXPLAINED_BYTES:
            remark(remarks, LEFT_OVER, f"{len(data) - position:,} bytes behind the last mp3 frame")
        yield run


def _walk(data: bytes, start: int, end: int, run: Run) -> int:
    """Add the frames that follow one another from `start` on, up to `end`, to `run` and return where they stop."""
    kind, sizes = run.kind, run.kind.sizes
    position, num_frames, second = start, 0, data[start + 1] & 0xFE
    while position + 4 <= end:
        size = sizes[data[position + 2]]
        is_kind = data[position] == 0xFF and data[position + 1] & 0xFE == second and size
        if not is_kind or (data[position + 3] >= 0xC0) != kind.is_mono:
            break
        if position + size > end:
            run.is_torn = True
            break
        position += size
        num_frames += 1
    run.pieces.append((start, position))
    run.num_frames += num_frames
    return position


def _next_run(data: bytes, position: int) -> int | None:
    """Return where, behind tags and whatever else, the next frame stands that others of its kind follow."""
    position = after_tags(data, position)
    for _ in range(TRIES):
        position = data.find(b"\xff", position)
        if position < 0:
            break
        if _is_run(data, position):
            return position
        position += 1
    return None


def _is_run(data: bytes, position: int) -> bool:
    """Tell whether RUN_FRAMES frames of one kind stand at `position`, or fewer up to the end or to the last tags."""
    kind = _kind_at(data, position)
    if kind is None:
        return False
    for _ in range(RUN_FRAMES - 1):
        position += kind.sizes[data[position + 2]]
        if _kind_at(data, position) != kind:
            return after_tags(data, position) == len(data)
    return True


def _kind_at(data: bytes, position: int) -> Kind | None:
    """Return the kind of the frame whose header stands at `position`, None where it is no header."""
    head = data[position : position + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer, rate = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 2 & 3
    if version == 1 or layer == 4 or rate == 3:
        return None
    kind = _kind(version, layer, rate, head[3] >= 0xC0)
    return kind if kind.sizes[head[2]] else None


@functools.cache
def _kind(version: int, layer: int, rate: int, is_mono: bool) -> Kind:
    return Kind(version, layer, rate, is_mono)


def _part(data: bytes, run: Run, remarks: dict[str, str]) -> Part:
    """Return the frames of a run, without those that a Xing/Info header of another number would cut off."""
    kind, first = run.kind, run.pieces[0][0]
    place = first + kind.info_place
    is_info = data[place : place + 4] in (b"Xing", b"Info")
    stated = _number(data, place + 8) if is_info and data[place + 7] & 1 else 0
    if data[first + 36 : first + 40] == b"VBRI":
        stated = _number(data, first + 50)
    num_frames = run.num_frames - is_info
    if num_frames + 1 < stated:
        raise CorruptFile(f"truncated: {num_frames * kind.num_samples} of {stated * kind.num_samples} samples")
    pieces = [data[start:end] for start, end in run.pieces]
    sound = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    num_samples = num_frames * kind.num_samples
    if is_info and stated and num_frames <= stated + 1:
        return Part(sound, max(0, num_samples - MOST_TRIMMED), False, kind.silence, LEAD_FRAMES * kind.num_samples)
    if is_info:
        remark(remarks, WRONG_HEADER, f"its Xing header states {stated:,} frames of {num_frames:,}")
        sound = sound[kind.sizes[sound[2]] :]
    if run.is_torn:
        remark(remarks, TORN_END, "the last mp3 frame is torn")
    return Part(sound, num_samples, True, kind.silence, LEAD_FRAMES * kind.num_samples)


def _number(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 4])


def _all(data: bytes, magic: bytes) -> Iterator[int]:
    position = -1
    while (position := data.find(magic, position + 1)) >= 0:
        yield position
