"""New recordings as predict finds them: files listed, read and checked; without torch.

Goes in: the paths that a person named. Comes out: a waveform or frames of each. Audio is decoded by the code that
preprocess uses. Frames come as .npy (num_frames, dim), whatever the ending, or as the course's .pt, of which only the
plain case that torch.save writes for a contiguous float32 tensor is read, and never unpickled.
"""

import io
import os
import struct
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.apps.predict.model_card import ModelCard
from src.base.torch_files import CorruptFile
from src.competition.file_names import AUDIO_SUFFIXES, OTHER_AUDIO_SUFFIXES, is_audio, is_nobody, is_unknown
from src.store.audio_file import decode
from src.store.pickled_numpy import NPY_MAGIC, holds_numpy, is_npz
from src.store.tensor_file import NUMPY_ARRAY, plain_pickle

FRAMES_SUFFIXES = (".pt", ".npy")
FLOAT16_MAX = 65504.0  # log-mels are stored as float16; what lies beyond is no feature of speech


@dataclass(frozen=True, eq=False)
class Recording:
    """A waveform (num_samples,) float32, or frames (num_frames, dim) float32; rate: a second, 0 where unknown."""

    values: np.ndarray
    rate: float

    @property
    def is_audio(self) -> bool:
        """Return whether it is a waveform."""
        return self.values.ndim == 1


def list_recordings(paths: Iterable[str], card: ModelCard) -> tuple[list[Path], list[Path]]:
    """Return the files to answer, and what is left out of folders though nothing says that it is no recording.

    Answered are the files among `paths`, and in folders among them, at any depth, those whose ending the model answers.
    A path that is not there and a folder without such a file are listed themselves: reading them says what is wrong.
    """
    files: list[Path] = []
    left_out: list[Path] = []
    suffixes = _suffixes(card) + (OTHER_AUDIO_SUFFIXES if card.takes_audio else ())  # which reading refuses by name
    for path in map(Path, paths):
        below = sorted(file for file in _files_below(path, left_out) if not file.name.startswith("."))
        files += [file for file in below if file.name.lower().endswith(suffixes)] or [path]
        left_out += [file for file in below
                     if is_unknown(file.name) or (is_audio(file.name) and not card.takes_audio)]
    return files, left_out


def _files_below(path: Path, left_out: list[Path]) -> Iterator[Path]:
    """Yield the files in a folder at any depth; linked folders are followed, each real folder once.

    Folders whose names are known to be nobody's are appended to `left_out`.
    """
    visited = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        if (real := os.path.realpath(folder)) in visited:
            folders.clear()
            continue
        visited.add(real)
        left_out += [Path(folder, name) for name in folders if is_nobody(name)]
        folders[:] = [name for name in folders if not is_nobody(name)]
        yield from (Path(folder, name) for name in names)


def read_recording(path: Path, card: ModelCard) -> Recording:
    """Return what a file holds; raises CorruptFile for one that cannot be read or does not fit the model."""
    if path.is_dir():
        raise CorruptFile(f"a folder without a file that {card.name} can answer ({', '.join(_suffixes(card))})")
    is_frames = path.name.lower().endswith(FRAMES_SUFFIXES)
    if is_frames and not card.dim:
        raise CorruptFile(f"a file of features, and {card.name} takes audio")
    if not is_frames and not card.takes_audio:
        raise CorruptFile(f"{card.name} takes frames of {card.dim} values, no audio; give .npy or .pt files of them")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptFile(f"cannot be read ({error.strerror})") from error
    if is_frames:
        frames = _read_npy(data) if path.name.lower().endswith(".npy") else _read_pt(data, card.dim)
        return Recording(_checked(frames, card.dim), card.frame_rate)
    return Recording(*decode(data))


def _suffixes(card: ModelCard) -> tuple[str, ...]:
    return (AUDIO_SUFFIXES if card.takes_audio else ()) + (FRAMES_SUFFIXES if card.dim else ())


def _read_npy(data: bytes) -> np.ndarray:
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # numpy's reader raises ValueError, TokenError, EOFError, … on torn bytes
        raise CorruptFile("not a whole .npy array of numbers") from error


def _read_pt(data: bytes, dim: int) -> np.ndarray:
    if data.startswith(NPY_MAGIC):
        return _read_npy(data)
    if is_npz(data) or holds_numpy(data):
        raise CorruptFile(NUMPY_ARRAY)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {item.filename.partition("/")[2]: item for item in archive.infolist()}
            numbers = members["data/0"]
            num_frames = numbers.file_size // (4 * dim)
            plain = plain_pickle(num_frames, dim)
            if numbers.compress_type == zipfile.ZIP_STORED and members["data.pkl"].file_size == len(plain) \
                    and archive.read(members["data.pkl"]) == plain:
                return np.frombuffer(archive.read(numbers), "<f4").reshape(num_frames, dim)
    except (zipfile.BadZipFile, KeyError, ValueError, RuntimeError, EOFError, OSError, struct.error) as error:
        raise CorruptFile("not a whole .pt file of frames") from error
    raise CorruptFile(f"not the .pt file that torch.save writes for float32 frames of shape (num_frames, {dim})")


def _checked(frames: np.ndarray, dim: int) -> np.ndarray:
    if frames.ndim != 2 or frames.shape[1] != dim or not len(frames) or frames.dtype.kind != "f":
        raise CorruptFile(f"{frames.dtype} of shape {frames.shape}; the model takes floating-point (num_frames, {dim})")
    if not (frames.min() >= -FLOAT16_MAX and frames.max() <= FLOAT16_MAX):  # NaN fails both
        raise CorruptFile("holds NaN, infinite or absurd values")
    return np.ascontiguousarray(frames, np.float32)
