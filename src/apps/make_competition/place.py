"""Put a file into a made competition: by a link, or a copy where the file system has no such link."""

import os
import shutil
from pathlib import Path


def place(source: Path, target: Path) -> bool:
    """Link `target` to the same file, or copy it, and return whether it was linked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    real = os.path.realpath(source)  # a link to a link would dangle
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)
        return False
    return True
