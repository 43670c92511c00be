"""What a competition is called: as its folder is, unless another folder has that name already.

Runs, stores and submissions lie under a competition's name. Two folders that are both called `data` are two
competitions: the first whose store is made keeps the name, the next is `data-2`. Which folder a name belongs to stands
in data/cache/<name>/competition.json; a folder that is gone gives its name up.
"""

import itertools
import os
import re
import unicodedata
from pathlib import Path

from src.base.errors import RunError
from src.base.files import read_json, write_json
from src.base.workspace import cache_dir


def file_name(name: str) -> str:
    """Return `name` as one safe path component, of at most 60 characters: 240 bytes, where a file system takes 255."""
    return re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name)).strip("._-")[:60] or "competition"


def name_of(directory: Path) -> str:
    """Return the name of the competition in a folder: its own, or one with a number where that one is taken."""
    base = file_name(directory.name)
    names = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
    return next(name for name in names if folder_of(name) in (None, _real(directory)))


def folder_of(name: str) -> Path | None:
    """Return the folder that a competition's name belongs to; None where it belongs to none, or to one that is gone."""
    try:
        folder = Path(read_json(_record(name))["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder if folder.is_dir() else None


def claim(name: str, directory: Path) -> None:
    """Record that a name belongs to a folder; the caller holds the lock of the competition's cache.

    Raises RunError where another process has given the name to another folder meanwhile.
    """
    owner, folder = folder_of(name), _real(directory)
    if owner not in (None, folder):
        raise RunError(f"{directory}: the name '{name}' has just been taken by {owner}; run the same command again")
    if owner is None:
        write_json(_record(name), {"folder": str(folder)})


def _real(directory: Path) -> Path:
    return Path(os.path.realpath(directory))


def _record(name: str) -> Path:
    return cache_dir(name) / "competition.json"
