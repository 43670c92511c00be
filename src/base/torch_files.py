""".pt files that others may have written: tensors and plain values are read, code is refused and never run."""

import io
import zipfile
from pathlib import Path
from typing import BinaryIO

from src.base.errors import InputError


def load_tensors(path: Path) -> dict:
    """Return the dict of tensors and plain values in a .pt file; code in it is refused, never run."""
    import torch

    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Exception as error:  # torch raises many kinds for torn, foreign and unsafe files
        raise InputError(f"{path}: not a file of tensors and plain values, or torn or changed; refused: fetch it or "
                         "train it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no dictionary; not written by this project")
    return content


class CorruptFile(Exception):
    """A file of features or audio that holds no usable utterance; the message says why."""


def check_archive(file: str | Path | BinaryIO) -> None:
    """Raise CorruptFile unless every member is stored as torch stores it and has its checksum; torch checks neither.

    A compressed member could swell to any size, and members that overlap to many times the file's.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            size = archive.fp.seek(0, io.SEEK_END)
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise CorruptFile("compressed, as torch.save never writes")
            if sum(member.file_size for member in members) > size:
                raise CorruptFile("not a whole .pt file (its parts overlap)")
            changed = archive.testzip()
    except (CorruptFile, FileNotFoundError):
        raise
    except Exception as error:  # zipfile raises BadZipFile, NotImplementedError, struct.error, … on torn bytes
        raise CorruptFile(f"not a whole .pt file ({type(error).__name__})") from error
    if changed:
        raise CorruptFile("its checksum does not match: some bytes have changed")
