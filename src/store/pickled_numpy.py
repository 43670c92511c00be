"""Recognise numpy arrays in files that should hold tensors, without unpickling anything.

Goes in: the bytes of a .pt file. Comes out: whether they are an array as np.save, np.savez, pickle or torch.save writes
it. A pickle may run code, so it is known by the names that it would import, of which none is imported here.
"""

import io
import pickletools
import zipfile
from typing import BinaryIO

NPY_MAGIC = b"\x93NUMPY"
CORES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy._core.numeric", "numpy.core.numeric")
ARRAY_NAMES = {"numpy ndarray", "numpy dtype", "_codecs encode"} | {
    f"{core} {name}" for core in CORES for name in ("_reconstruct", "_frombuffer", "scalar")}
LEGACY_PICKLES = 5  # of torch.save before 1.6: a magic number, a version, the system, the object, a list of keys


def is_npz(data: bytes) -> bool:
    """Tell whether np.savez wrote an archive: its first member is an array."""
    return data[:4] == b"PK\x03\x04" and bytes(data[30 : 30 + int.from_bytes(data[26:28], "little")]).endswith(b".npy")


def holds_numpy(data: bytes) -> bool:
    """Tell whether a pickle, bare or as torch.save writes it, builds numpy arrays and no other object."""
    try:
        if data[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                member = next(item for item in archive.infolist() if item.filename.endswith("data.pkl"))
                data = archive.read(member) if member.compress_type == zipfile.ZIP_STORED else b""
        names = _imported(io.BytesIO(data))
    except Exception:  # torn bytes lead zipfile and pickletools to whatever error
        return False
    return bool(names) and names <= ARRAY_NAMES


def _imported(file: BinaryIO) -> set[str]:
    """Return "module name" of every global that the pickles in `file`, one after another, would import."""
    names: set[str] = set()
    for _ in range(LEGACY_PICKLES):
        if not file.read(1):
            break
        file.seek(-1, io.SEEK_CUR)
        strings: list = ["", ""]  # what was pushed, as far as it is text
        memo: dict[int, object] = {}
        for code, argument, _ in pickletools.genops(file):
            if code.name in ("GLOBAL", "INST"):
                names.add(argument)
            elif code.name == "STACK_GLOBAL":
                names.add(f"{strings[-2]} {strings[-1]}")
            elif code.name == "MEMOIZE":
                memo[len(memo)] = strings[-1]
            elif code.name in ("BINPUT", "LONG_BINPUT", "PUT"):
                memo[argument] = strings[-1]
            elif code.name in ("BINGET", "LONG_BINGET", "GET"):
                strings.append(memo.get(argument))
            elif "UNICODE" in code.name:
                strings.append(argument)
    return names
