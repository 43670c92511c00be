"""What a finished run may expect on the test part: the verdict on its store, kept next to it, and the score.

A store never changes, so that its verdict is measured once and kept in the store's folder as verdict.json.
"""

from dataclasses import asdict

from src.base.files import read_json, write_json
from src.runs.folder import Run
from src.runs.logits import read_logits
from src.shift.adversarial import Separation, Verdict, examine
from src.shift.expected_score import ExpectedScore, expected_score
from src.shift.validation import deciding_validation
from src.store.store import Store

VERSION = 1  # raise it when the same store would get another verdict


def verdict_on(store: Store) -> Verdict:
    """Return whether clean held-out utterances decide or degraded copies of them, measured now or before."""
    path = store.directory / "verdict.json"
    known = read_json(path) if path.exists() else {}
    if known.get("version") == VERSION:
        separation = known["separation"]
        if separation is not None:
            separation = Separation(**{**separation, "halves": tuple(separation["halves"])})
        return Verdict(known["name"], separation, known["reason"])
    verdict = examine(store)
    write_json(path, {"version": VERSION, **asdict(verdict)})
    return verdict


def expect(blend: Run, store: Store, verdict: Verdict) -> ExpectedScore:
    """Return the score to expect of a blend on the test part, from its clean out-of-fold predictions.

    Where the verdict is "shifted" these flatter, and the result says that it is an upper bound.
    """
    rows, logits = read_logits(blend.valid_path)
    members = [Run(blend.directory.parents[1] / run_id) for run_id in blend.result["members"]]
    fold_tests = [read_logits(fold.test_path)[1] for fold in members[0].folds] if len(members) == 1 else []
    groups = [store.groups[row] for row in rows]
    return expected_score(deciding_validation(verdict), {"clean": logits}, store.labels[rows], len(store.test_rows),
                          fold_tests, groups)
