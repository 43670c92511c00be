"""Find the reader of a sound file by its first bytes, and have it cut the file into parts that are decoded alone.

Goes in: a file's bytes. Come out: its parts; most files have one, themselves. What is formally wrong but wholly there
is mended in memory and remarked; what is really short is refused.
"""

from collections.abc import Iterator
from itertools import islice

from src.base.torch_files import CorruptFile
from src.store.flac_frames import split_flac
from src.store.mp3_frames import is_mp3, split_mp3
from src.store.ogg_pages import split_ogg
from src.store.sound_part import Part, after_tags
from src.store.wav_chunks import CHECKED, WAVS, check_length, split_wav

MOST_PARTS = 10_000


def split_sound(data: bytes, remarks: dict[str, str]) -> list[Part]:
    """Return the parts of a sound file, and note in `remarks` {kind: cause} what is odd about it.

    Raises CorruptFile for a file that is truncated or changed, as far as its container tells.
    """
    parts = list(islice(_split(data, remarks), MOST_PARTS + 1))
    if len(parts) > MOST_PARTS:
        raise CorruptFile(f"more than {MOST_PARTS:,} recordings joined into one file; cut it into utterances")
    return parts


def _split(data: bytes, remarks: dict[str, str]) -> Iterator[Part]:
    begin = after_tags(data, 0)
    magic = data[begin : begin + 4]
    if magic == b"OggS":
        return split_ogg(data[begin:], remarks)
    if magic == b"fLaC":
        return split_flac(data[begin:], remarks)
    if magic in WAVS:
        return split_wav(data[begin:], remarks)
    if begin or magic[:1] == b"\xff" or (magic not in CHECKED and is_mp3(data)):
        return split_mp3(data, remarks)
    return check_length(data, remarks)
