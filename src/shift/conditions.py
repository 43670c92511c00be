"""Validation for a shifted test set: how finished runs fare on degraded copies of the utterances they never heard.

    python -m src conditions so762/course-19016e0b seed88

Next to the stream: finished runs of a competition that comes as audio go in; a table and conditions.json in each run's
folder come out. Every fold's model hears its own held-out utterances, whole and masked, clean and in each condition of
degrade.py. The degraded utterances lie in data/cache/<competition>/conditions-<digest8>, a store as preprocess makes
it, with one row per training utterance and condition; it is made once, by threads, and a killed making goes on
from its last whole chunk.

"shifted" is the accuracy to expect of a test set with the shares in MIXTURE.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from src.base.errors import InputError, RunError, SettingError
from src.base.files import atomic_open, read_json, write_json
from src.competition.open import find_folder, open_competition
from src.model.checkpoint import load_model
from src.runs.folder import Run
from src.runs.logits import read_logits
from src.shift.degrade import CONDITIONS
from src.shift.degraded_store import VERSION, copy_id, degraded_store
from src.shift.expected_score import ExpectedScore, expected_score
from src.shift.judge import verdict_on
from src.shift.matching import match_stores
from src.shift.validation import deciding_validation
from src.store.ensure import ensure_store
from src.store.store import Store
from src.training.evaluate import predict

# Shares of a shifted test set: 0.30 as recorded, as so762 states of its own; the rest another session, whose effects
# come together as degrade.EFFECT_PROBS says, so that these shares follow from it.
MIXTURE = {
    "clean": 0.300,
    "equaliser": 0.092,
    "noise": 0.034,
    "babble": 0.027,
    "reverberation": 0.023,
    "telephone": 0.026,
    "bitrate": 0.170,
    "mixed": 0.328,
}


def evaluate(run: Run, data: str | Path | None = None) -> dict[str, Any]:
    """Return a finished run's validation, clean and by condition; it is kept in the run's conditions.json.

    data: the competition's folder or its name under data/, by default the run's own. The result holds "version",
    "store" (the digest of the degraded utterances), "clean" and each condition as {"num_right", "num_valid"}, and
    "shifted". Raises InputError where the competition does not come as audio or is not what the run was trained on,
    SettingError for a blend and for a run that held nothing out, RunError for a run that is not finished.
    """
    clean, degraded = stores_of(run, data)
    path = run.conditions_path
    known = read_json(path) if path.exists() else {}
    if known.get("store") == degraded.digest and run.copies_path.exists():
        counts = {condition: known[condition] for condition in MIXTURE}
    else:
        counts = _count(run, clean, degraded)
    shifted = sum(weight * share_right(counts[condition]) for condition, weight in MIXTURE.items())
    content = {"version": VERSION, "store": degraded.digest, **counts, "shifted": shifted}
    if content != known:
        write_json(path, content)
    return content


def expect(run: Run, data: str | Path | None = None) -> ExpectedScore:
    """Return the score to expect of an evaluated run on the test part, from the validation that is to be believed."""
    clean, degraded = stores_of(run, data)
    verdict = verdict_on(clean)
    match = match_stores(clean, degraded, verdict.separation, MIXTURE) if verdict.is_shifted else None
    with np.load(run.copies_path) as content:
        logits = {name: content[name] for name in content.files if name != "rows"}
        rows = content["rows"]
    fold_tests = [read_logits(fold.test_path)[1] for fold in run.folds]
    groups = [clean.groups[row] for row in rows]
    return expected_score(deciding_validation(verdict, match), logits, clean.labels[rows], len(clean.test_rows),
                          fold_tests, groups)


def stores_of(run: Run, data: str | Path | None = None) -> tuple[Store, Store]:
    """Return the store that a run was trained on and that of its degraded copies, making what is missing.

    data and errors: see `evaluate`.
    """
    result = _finished(run)
    competition = open_competition(data or find_folder(run.competition))
    if competition.feature_kind != "waveform":
        raise InputError(f"{competition.directory}: only audio can be degraded, and this competition comes as "
                         f"{competition.feature_kind}; there is no `conditions` for it")
    clean = Store.open(ensure_store(competition, run.experiment.features))
    if clean.digest != result["store"]:
        raise InputError(f"{competition.directory}: not what {run.run_id} was trained on, or changed since; "
                         "name its folder with --data, or train it again")
    return clean, Store.open(degraded_store(competition, clean))


def share_right(count: dict[str, int]) -> float:
    """Return the accuracy that a count says."""
    return count["num_right"] / count["num_valid"]


def _finished(run: Run) -> dict[str, Any]:
    """Return the result of a run that can be evaluated."""
    if run.is_blend:
        raise SettingError(f"{run.run_id}: not a run of one model; name the runs that it blends")
    if not run.is_done():
        raise RunError(f"{run.run_id}: not finished; the command that began it goes on from where it stopped")
    if not run.has_models():
        raise SettingError(f"{run.run_id}: no fold_0/model.pt, so it holds no speaker model; name another run")
    result = run.result
    if result["folds"] == "all":
        raise SettingError(f"{run.run_id}: trained on every utterance (folds=all), none is left to validate "
                           "on; evaluate the same experiment with folds=5 or folds=1")
    return result


def _count(run: Run, clean: Store, degraded: Store) -> dict[str, dict[str, int]]:
    """Return {condition: {"num_right", "num_valid"}} over every fold's held-out utterances, and keep the logits."""
    row_of = {utt_id: row for row, utt_id in enumerate(degraded.utt_ids)}
    conditions = ("clean", *CONDITIONS)
    kept: dict[str, list[np.ndarray]] = {condition: [] for condition in conditions}
    folds = clean.folds(run.result["folds"])
    with tqdm(total=len(folds) * len(conditions), desc=run.run_id, unit="condition", disable=None) as bar:
        for fold, (_, valid_rows) in enumerate(folds):
            model, experiment, _ = load_model(run.fold(fold).model_path)
            device = experiment.train.device if torch.cuda.is_available() else "cpu"
            model.to(device)
            for condition in conditions:
                store, rows = clean, valid_rows
                if condition != "clean":
                    store, rows = degraded, _rows(row_of, condition, [clean.utt_ids[row] for row in valid_rows])
                train = replace(experiment.train, device=device)
                kept[condition].append(predict(model, store, rows, train, experiment.infer))
                bar.update()
    valid_rows = np.concatenate([rows for _, rows in folds])
    logits = {condition: np.concatenate(parts) for condition, parts in kept.items()}
    with atomic_open(run.copies_path, "wb") as file:
        np.savez(file, rows=valid_rows, **logits)
    labels = clean.labels[valid_rows]
    return {condition: {"num_right": int((scores.argmax(1) == labels).sum()), "num_valid": len(labels)}
            for condition, scores in logits.items()}


def _rows(row_of: dict[str, int], condition: str, utt_ids: list[str]) -> np.ndarray:
    return np.array([row_of[copy_id(condition, utt_id)] for utt_id in utt_ids])
