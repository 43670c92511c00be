"""Logits on disk: what train leaves, ensemble blends and submit reads."""

from pathlib import Path

import numpy as np

from src.base.errors import InputError
from src.base.files import atomic_open


def save_logits(path: Path, rows: np.ndarray, logits: np.ndarray) -> None:
    """Write store rows (N,) and their logits (N, C) atomically as float32."""
    with atomic_open(path, "wb") as file:
        np.savez(file, rows=rows, logits=logits.astype(np.float32))


def read_logits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (N,) and logits (N, C); raises InputError when the file is torn, changed or foreign."""
    try:
        with np.load(path, allow_pickle=False) as content:  # its checksums are checked as it is read
            rows, logits = content["rows"], content["logits"]
    except Exception as error:  # BadZipFile, EOFError, zlib.error, … on torn bytes
        raise InputError(f"{path}: unreadable logits ({error}); remove the run's folder and train it again") from error
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or logits.ndim != 2 or len(rows) != len(logits):
        raise InputError(f"{path}: rows {rows.shape} and logits {logits.shape}, not written by this project; remove "
                         "the run's folder and train it again")
    return rows, logits


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log-posteriors (N, C) in float64."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of labels (N,) that are the largest of scores (N, C); NaN for none."""
    return float((scores.argmax(1) == labels).mean()) if len(labels) else float("nan")


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log-posterior of labels (N,) in nats; NaN for none."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean()) if len(labels) else float("nan")
