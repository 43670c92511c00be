"""Read one of the course's .pt files from its bytes, fast where it is the plain case and never unsafe.

Goes in: the bytes that `torch.save` wrote for a (num_frames, feature_dim) tensor. Comes out: a float32 array. A .pt
file is a zip archive around a pickle, and a pickle can run code. The fast path therefore never unpickles: it accepts a
file only when its pickle is byte for byte the one that torch writes for a contiguous float32 tensor of the shape
expected, and then views the stored numbers. Everything else goes through torch.load(weights_only=True). The archive's
checksums are checked, as torch does not: one changed bit would otherwise pass as another feature.
"""

import functools
import io
import pickle
import pickletools
import struct
import zlib

import numpy as np

from src.base.errors import InputError
from src.base.torch_files import CorruptFile, check_archive
from src.store.pickled_numpy import NPY_MAGIC, holds_numpy, is_npz

END, ENTRY, LOCAL = struct.Struct("<4s4H2LH"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6: its magic number, pickled
NUMPY_ARRAY = "holds a numpy array, not a tensor; save it with torch.save(torch.from_numpy(array), path)"
REFUSED = "carries code or objects other than tensors; refused. Do not open it elsewhere; fetch the file again"


def read_tensor(data: bytes, num_frames: int, feature_dim: int) -> np.ndarray:
    """Return the float32 array (num_frames, feature_dim) of a .pt file; it may be a read-only view of `data`.

    A file that np.save wrote is read too. Raises CorruptFile when it cannot be decoded, or is no floating-point tensor
    of that shape, and InputError when it carries code or objects other than tensors and numpy arrays: such a file is
    refused, not skipped.
    """
    if data.startswith(NPY_MAGIC):
        return read_npy(data, num_frames, feature_dim)
    frames = _read_plain(data, num_frames, feature_dim)
    return _load(data, num_frames, feature_dim) if frames is None else frames


def _read_plain(data: bytes, num_frames: int, feature_dim: int) -> np.ndarray | None:
    """Return the array of a plain file, None for any other."""
    try:
        signature, *_, num_entries, _, position, comment = END.unpack_from(data, len(data) - END.size)
        if signature != b"PK\x05\x06" or comment or num_entries > 16:
            return None
        members = {}
        for _ in range(num_entries):
            entry = ENTRY.unpack_from(data, position)
            (signature, _, _, _, compression), size, packed, lengths = entry[:5], entry[9], entry[8], entry[10:13]
            name = bytes(data[position + ENTRY.size : position + ENTRY.size + lengths[0]])
            if signature != b"PK\x01\x02" or compression or size != packed:
                return None
            members[name.partition(b"/")[2]] = _stored(data, entry[16], size), entry[7]
            position += ENTRY.size + sum(lengths)
        if members.get(b"byteorder", (b"little",))[0] != b"little":
            return None
        if members.get(b"data.pkl", (None,))[0] != plain_pickle(num_frames, feature_dim):
            return None
        numbers, crc = members.get(b"data/0", (None, 0))
    except struct.error:
        return None
    if numbers is None or len(numbers) != 4 * num_frames * feature_dim or zlib.crc32(numbers) != crc:
        return None
    return np.frombuffer(numbers, "<f4").reshape(num_frames, feature_dim)


def _stored(data: bytes, position: int, size: int) -> memoryview | None:
    """Return the bytes of an uncompressed member, None when they are not all there."""
    local = LOCAL.unpack_from(data, position)
    start = position + LOCAL.size + local[9] + local[10]
    if local[0] != b"PK\x03\x04" or start + size > len(data):
        return None
    return memoryview(data)[start : start + size]


@functools.lru_cache(maxsize=8192)
def plain_pickle(num_frames: int, feature_dim: int) -> bytes:
    """Return the pickle that torch.save writes for a contiguous float32 CPU tensor of this shape."""
    return b"".join((
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00((X\x07\x00\x00\x00storageq\x01ctorch\nFloatStorage\nq\x02"
        b"X\x01\x00\x00\x000q\x03X\x03\x00\x00\x00cpuq\x04", _pickled(num_frames * feature_dim), b"tq\x05QK\x00",
        _pickled(num_frames), _pickled(feature_dim), b"\x86q\x06", _pickled(feature_dim),
        b"K\x01\x86q\x07\x89ccollections\nOrderedDict\nq\x08)Rq\ttq\nRq\x0b."))


def _pickled(number: int) -> bytes:
    """Return a whole number below 2**31 as pickle protocol 2 writes it."""
    if number < 1 << 8:
        return b"K" + struct.pack("<B", number)
    return b"M" + struct.pack("<H", number) if number < 1 << 16 else b"J" + struct.pack("<i", number)


def _load(data: bytes, num_frames: int, feature_dim: int) -> np.ndarray:
    """Return the array of any file that torch may load without running code."""
    import torch

    if not data.startswith((b"PK\x03\x04", LEGACY)):
        if holds_numpy(data):
            raise CorruptFile(NUMPY_ARRAY)
        if _builds_objects(data):
            raise InputError(REFUSED)
        raise CorruptFile("not a .pt file" if data else "empty")
    if is_npz(data):
        raise CorruptFile(NUMPY_ARRAY)
    if not data.startswith(LEGACY):
        check_archive(io.BytesIO(data))
    try:
        tensor = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "unsupported global" in str(error).lower():
            if holds_numpy(data):
                raise CorruptFile(NUMPY_ARRAY) from error
            raise InputError(REFUSED) from error
        raise CorruptFile("its pickle cannot be decoded") from error
    except Exception as error:  # torch's readers raise KeyError, EOFError, RuntimeError, ValueError, … on torn bytes
        raise CorruptFile(f"not a whole .pt file ({type(error).__name__})") from error
    if not isinstance(tensor, torch.Tensor):
        raise CorruptFile(f"holds a {type(tensor).__name__}, not a tensor")
    if tensor.layout is not torch.strided or not tensor.is_floating_point():
        raise CorruptFile(f"holds {tensor.dtype} in layout {tensor.layout}, not floating-point frames")
    _check_shape(tuple(tensor.shape), num_frames, feature_dim)  # before any copy: a tiny file can expand to any shape
    if tensor.device.type != "cpu":
        raise CorruptFile(f"holds a tensor without numbers (device {tensor.device})")
    return tensor.detach().resolve_neg().float().contiguous().numpy()


def read_npy(data: bytes, num_frames: int, feature_dim: int) -> np.ndarray:
    """Return the float32 array of a file that np.save wrote; raises CorruptFile as `read_tensor` does."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
    except Exception as error:  # numpy's reader raises ValueError, TokenError, EOFError, … on torn bytes
        raise CorruptFile("not a whole .npy array of numbers") from error
    _check_shape(shape, num_frames, feature_dim)
    if dtype.kind != "f":
        raise CorruptFile(f"holds {dtype}, not floating-point frames")
    numbers = data[file.tell() :]
    if len(numbers) != dtype.itemsize * num_frames * feature_dim:
        raise CorruptFile("not a whole .npy array of numbers")
    frames = np.frombuffer(numbers, dtype).reshape(shape, order="F" if is_fortran else "C")
    return np.ascontiguousarray(frames, np.float32)


def _check_shape(shape: tuple[int, ...], num_frames: int, feature_dim: int) -> None:
    if shape != (num_frames, feature_dim):
        raise CorruptFile(f"shape {shape}, but the tables say ({num_frames}, {feature_dim})")


def _builds_objects(data: bytes) -> bool:
    """Tell whether `data` begins as a pickle that names classes or functions; nothing of it is run."""
    try:
        return any(code.name in ("GLOBAL", "STACK_GLOBAL", "INST") for code, _, _ in pickletools.genops(data))
    except Exception:  # genops raises whatever the torn bytes lead it to
        return False
