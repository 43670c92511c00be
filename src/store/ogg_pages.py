"""Cut an Ogg file into the recordings that are chained in it, each page checked (RFC 3533).

Goes in: the bytes of an .ogg or .opus file. Come out: the links of the chain. libsndfile reads the first
link alone, and no flac in Ogg, which is therefore taken out of its pages.
"""

import zlib
from collections.abc import Iterator

from src.base.torch_files import CorruptFile
from src.store.flac_frames import split_flac
from src.store.remarks import LEFT_OVER, WRONG_HEADER, remark
from src.store.sound_part import UNEXPLAINED_BYTES, Part, is_blank

REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
BEGINS, ENDS = 2, 4  # flags of a page: the first and the last of its stream
FLAC_MAGIC = b"\x7fFLAC"  # of the first packet of flac in Ogg, then two bytes of version and two of a count


def split_ogg(data: bytes, remarks: dict[str, str]) -> Iterator[Part]:
    """Yield the links of an Ogg file, each of which ends its stream.

    A last page without the end-of-stream flag is given it. Raises CorruptFile for pages that are torn, changed, or
    missing at the end.
    """
    begin, last, last_page = 0, 0, b""
    for position, page in _pages(data, remarks):
        if last_page and page[5] & BEGINS and not last_page[5] & BEGINS:
            yield from _link(data, begin, last, last_page, remarks)
            begin = position
        last, last_page = position, page
    yield from _link(data, begin, last, last_page, remarks)


def _link(data: bytes, begin: int, last: int, last_page: bytes, remarks: dict[str, str]) -> Iterator[Part]:
    """Yield the link that begins at `begin` and whose last page stands at `last`."""
    ended = _ended(last_page, remarks)
    is_all = begin == 0 and last + len(ended) == len(data) and ended is last_page
    link = data if is_all else data[begin:last] + ended
    if _payload(_page_at(link, 0)).startswith(FLAC_MAGIC):
        yield from split_flac(_native_flac(link), remarks)
    else:
        yield Part(link)


def _pages(data: bytes, remarks: dict[str, str]) -> Iterator[tuple[int, bytes]]:
    """Yield each page and where it begins; between the end of a stream and the begin of the next there may be tags."""
    position, flags = 0, 0
    while position < len(data):
        if data[position : position + 4] != b"OggS":
            if not flags & ENDS:
                raise CorruptFile("changed: no Ogg page where one should be")
            begin = _next_begin(data, position)
            if not is_blank(data, position, begin) and begin - position > UNEXPLAINED_BYTES:
                remark(remarks, LEFT_OVER, f"{begin - position:,} bytes behind the end of an Ogg stream")
            position = begin
            if position == len(data):
                return
        page = _page_at(data, position)
        yield position, page
        position, flags = position + len(page), page[5]


def _page_at(data: bytes, position: int) -> bytes:
    """Return the page that begins at `position`; raises CorruptFile unless it is whole and as it was written."""
    table = position + 27 + (data[position + 26] if position + 26 < len(data) else 0)  # where segment sizes end
    page = data[position : table + sum(data[position + 27 : table])]
    if table > len(data) or position + len(page) < table + sum(data[position + 27 : table]):
        raise CorruptFile("truncated: the last Ogg page is torn")
    if ogg_crc(page) != int.from_bytes(page[22:26], "little"):
        raise CorruptFile("the checksum of an Ogg page does not match: some bytes have changed")
    return page


def _next_begin(data: bytes, position: int) -> int:
    """Return where, behind what is no page, another stream begins; the end of the file where none does."""
    while (position := data.find(b"OggS\0", position)) >= 0:
        if data[position + 5 : position + 6] == bytes([BEGINS]):
            return position
        position += 1
    return len(data)


def _ended(page: bytes, remarks: dict[str, str]) -> bytes:
    """Return the last page with the flag that ends its stream; raises CorruptFile where its last packet goes on."""
    if page[5] & ENDS:
        return page
    if page[26] and page[26 + page[26]] == 255:
        raise CorruptFile("truncated: the last Ogg packet goes on in a page that is missing")
    remark(remarks, WRONG_HEADER, "the last Ogg page lacks the end-of-stream flag")
    page = page[:5] + bytes([page[5] | ENDS]) + page[6:]
    return page[:22] + ogg_crc(page).to_bytes(4, "little") + page[26:]


def ogg_crc(page: bytes) -> int:
    """Return the checksum of an Ogg page, its own field as zeros.

    The polynomial is zlib's, but the highest bit comes first and nothing is inverted.
    """
    page = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(page.translate(REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


def _payload(page: bytes) -> bytes:
    return page[27 + page[26] :]


def _native_flac(link: bytes) -> bytes:
    """Return the flac file whose blocks and frames are the packets of a stream, in one piece without the pages."""
    pages = [page for _, page in _pages(link, {})]
    pages = [page for page in pages if page[14:18] == pages[0][14:18]]  # another stream has another serial number
    numbers = [int.from_bytes(page[18:22], "little") for page in pages]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise CorruptFile("changed: an Ogg page is missing in the midst of it")
    return b"".join(map(_payload, pages))[len(FLAC_MAGIC) + 4 :]
