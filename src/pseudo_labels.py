"""A blend's predictions of the test utterances, kept as labels that another run may train on (Lee, 2013).

Stage 3 writes pseudo_labels.npz beside a blend's logits; a run with train.pseudo_labels reads it by digest, and a
second round is another run. Fold k of that run is given what the blend's members of fold k predict, models that never
saw fold k, so that its validation stays honest.
"""

from pathlib import Path

import numpy as np

from src.errors import InputError, SettingError
from src.files import atomic_open

PSEUDO_LABELS = "pseudo_labels.npz"


def save_pseudo_labels(directory: Path, rows: np.ndarray, by_fold: list[np.ndarray], overall: np.ndarray) -> None:
    """Write labels and confidences of test `rows` (N,) from log-posteriors (N, C), of each fold and of all together."""
    scores = np.stack([*by_fold, overall])
    with atomic_open(directory / PSEUDO_LABELS, "wb") as file:
        np.savez(file, rows=rows, labels=scores.argmax(2), confidence=np.exp(scores.max(2)).astype(np.float32))


def read_pseudo_labels(path: Path, fold: int | None, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return store rows (M,) and labels (M,) of the `share` of test utterances predicted with most confidence.

    fold: whose members predict, None for all together. Raises SettingError when every member has seen the fold.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            rows, labels, confidence = (content[key] for key in ("rows", "labels", "confidence"))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: unreadable predictions ({error}); remove this folder and blend again") from error
    if fold is not None and fold >= len(labels) - 1:
        raise SettingError(f"{path}: its runs hold out no fold {fold + 1}, so their predictions know its answers; use "
                           "runs with as many folds, or folds=all here")
    place = -1 if fold is None else fold
    order = np.argsort(-confidence[place], kind="stable")[: round(share * len(rows))]
    return rows[order], labels[place, order]
