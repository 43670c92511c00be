"""What the path in encoder.weights names: its files and the digest of their content."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from src.base.errors import InputError

FILES = ("model.safetensors", "pytorch_model.bin")  # of a Hugging Face folder, the first that is there


def weights_digest(path: str | Path) -> str:
    """Return the SHA-256 of the files that `path` names: what stands for the weights in a run's digest."""
    files = [(str(file), (status := file.stat()).st_size, status.st_mtime_ns) for file in weights_files(Path(path))]
    return _digest(tuple(files))


@functools.cache
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    """Return the digest of files given with their size and time, which make an overwritten file another key."""
    whole = hashlib.sha256()
    for path, _, _ in files:
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def weights_files(path: Path) -> list[Path]:
    """Return the files that hold the weights at `path`: the weights, then their config.json where there is one."""
    if path.is_file():
        weights = path
    elif path.is_dir():
        found = [path / name for name in FILES if (path / name).is_file()]
        if not found:
            raise ValueError(f"{path}: a folder without {' or '.join(FILES)}; save the model in one file")
        weights = found[0]
    else:
        raise ValueError(f"{path}: no such file or folder of weights")
    config = weights.with_name("config.json")
    return [weights, config] if path.is_dir() and config.is_file() else [weights]


def hash_weights(settings: dict[str, Any]) -> dict[str, Any]:
    """Return an experiment's essential settings with the path in encoder.weights replaced by its content's digest.

    So a run is named by what it started from, wherever that lies. Raises InputError for a path that is not there.
    """
    weights = settings["encoder"].get("weights")
    if not weights:
        return settings
    try:
        content = weights_digest(weights)
    except (OSError, ValueError) as error:
        raise InputError(f"encoder.weights: {error}; give the path of an encoder.pt that `python -m src pretrain` "
                         "left, or of a pretrained model") from error
    return {**settings, "encoder": {**settings["encoder"], "weights": content}}
