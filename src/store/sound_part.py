"""What the readers of all sound files share: the parts that are decoded alone, and tags, which are no sound.

Used by sound_files, which finds the reader of a file, and by the readers themselves (mp3_frames, ogg_pages,
flac_frames, wav_chunks). A reader takes the bytes of a file and returns its parts.
"""

from dataclasses import dataclass

TAG_BYTES = 128  # of an ID3v1 tag
UNEXPLAINED_BYTES = 1441  # the largest frame of an mp3; fewer that are no sound are nothing that could be heard


@dataclass(frozen=True)
class Part:
    """A file that libsndfile decodes alone; joined files have several.

    num_samples: the least that its frames hold, 0 where that is not known. is_guessed: libsndfile's own number is a
    guess. lead: a frame of silence, of num_lead samples, to be put before `data` where libsndfile's number is less.
    """

    data: bytes
    num_samples: int = 0
    is_guessed: bool = False
    lead: bytes = b""
    num_lead: int = 0


def after_tags(data: bytes, position: int) -> int:
    """Return where the ID3 and APE tags that begin at `position` end; `position` itself where there are none."""
    while True:
        size = _tag_size(data, position)
        if not size:
            return position
        position = min(position + size, len(data))


def is_blank(data: bytes, position: int, end: int | None = None) -> bool:
    """Tell whether nothing but tags and zeros stands from `position` to `end`, by default the end of the file."""
    return not data[after_tags(data, position) : end].strip(b"\0")


def _tag_size(data: bytes, position: int) -> int:
    """Return the length of the tag at `position`, 0 for none."""
    head = data[position : position + 32]
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 0x80:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return 10 + size + (10 if head[5] & 0x10 else 0)
    if head[:3] == b"TAG":
        return TAG_BYTES
    if head[:8] == b"APETAGEX" and len(head) == 32:
        is_header = head[23] & 0x20  # the size that either states is that of the items and the footer
        return 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
    return 0
