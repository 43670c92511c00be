"""A blend's predictions of the test utterances, kept as labels that another run may train on (Lee, 2013).

Stage 3 writes pseudo_labels.npz beside a blend's logits; a run with train.pseudo_labels reads it by digest, and a
second round is another run. Fold k of that run is given what the blend's members of fold k predict, models that never
saw fold k, so that its validation stays honest: both must split the same utterances into the same folds.
"""

from pathlib import Path

import numpy as np

from src.base.errors import InputError, SettingError
from src.base.files import atomic_open
from src.runs.folder import Run
from src.settings.folds import Folds, holds_out_as


def save_pseudo_labels(path: Path, rows: np.ndarray, by_fold: list[np.ndarray], overall: np.ndarray) -> None:
    """Write labels and confidences of test `rows` (N,) from log-posteriors (N, C), of each fold and of all together."""
    scores = np.stack([*by_fold, overall])
    with atomic_open(path, "wb") as file:
        np.savez(file, rows=rows, labels=scores.argmax(2), confidence=np.exp(scores.max(2)).astype(np.float32))


def check_pseudo_labels(blend: Run, table: str, folds: Folds) -> None:
    """Raise SettingError where a blend's predictions cannot join a run of `folds` on the store with digest `table`.

    They are numbers of rows and of speakers, and a blend whose runs split otherwise has learnt from what this run
    holds out.
    """
    name = f"train.pseudo_labels={blend.run_id}"
    result = blend.result
    if result["table"] != table:
        raise SettingError(f"{name}: its utterances, speakers or groups are not today's: the data has changed, or an "
                           "older version made it; train its runs and blend them again")
    if folds != "all" and not holds_out_as(folds, result["folds"]):
        raise SettingError(f"{name}: its runs do not hold out the folds of folds={folds}, so their predictions know "
                           f"this run's answers (theirs: folds={result['folds']}); use runs with as many folds, or "
                           "folds=all here")


def read_pseudo_labels(path: Path, fold: int | None, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return store rows (M,) and labels (M,) of the `share` of test utterances predicted with most confidence.

    fold: whose members predict, None for all together; check_pseudo_labels tells whether they may.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            rows, labels, confidence = (content[key] for key in ("rows", "labels", "confidence"))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: unreadable predictions ({error}); remove this folder and blend again") from error
    place = -1 if fold is None else fold
    order = np.argsort(-confidence[place], kind="stable")[: round(share * len(rows))]
    return rows[order], labels[place, order]
