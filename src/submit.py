"""Stage 4: blended test logits and the competition in, a checked submission.csv out."""

import csv
import shutil
from pathlib import Path

import numpy as np

from src.base.errors import RunError
from src.base.files import atomic_open
from src.base.git import is_tracked
from src.base.text import some
from src.base.workspace import submissions_dir
from src.competition.open import Competition
from src.runs.folder import Run
from src.runs.logits import read_logits
from src.store.table import Table


def write_submission(competition: Competition, store: Table, blend: Run, out: Path, name: str,
                     may_replace: bool = False) -> Path:
    """Write `out` and a copy under submissions/<competition>/<name>.csv; return the copy's path.

    Columns, ids and their order are the sample submission's where the competition has one. store: which the blend was
    made from. may_replace: whether the copy may replace a file that git tracks; where it may not, and would change it,
    the copy is called <name>-<digest8>.csv. Raises RunError when the store's ids or speakers are not the competition's.
    """
    rows, logits = read_logits(blend.test_path)
    expected = [utterance.utt_id for utterance in competition.utterances if utterance.split == "test"]
    predicted = [store.utt_ids[row] for row in rows.tolist()]
    if sorted(predicted) != sorted(expected):
        raise RunError(f"{blend.directory}: its {len(predicted)} test utterances are not the {len(expected)} of "
                       f"'{competition.name}'; give the folder of '{blend.competition}' with --data, or, where its "
                       "data has changed, run the stream again")
    if list(store.speakers) != list(competition.speakers):
        changed = sorted(set(store.speakers) ^ set(competition.speakers))
        raise RunError(f"{blend.directory}: its {len(store.speakers)} speakers are not the competition's "
                       f"{len(competition.speakers)} ({some(changed) or 'in another order'}); the data has changed: "
                       "run the stream again")
    if logits.shape != (len(rows), len(competition.speakers)) or not np.isfinite(logits).all():
        raise RunError(f"{blend.directory}: logits of shape {logits.shape} or not finite for "
                       f"{len(competition.speakers)} classes; remove the folder and run again")
    category = dict(zip(predicted, logits.argmax(1).tolist()))
    answers = {utt_id: competition.speakers[category[utt_id]] for utt_id in expected}
    with atomic_open(out) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(competition.form.columns)
        writer.writerows(competition.form.filled(answers))
    kept = submissions_dir(competition.name) / f"{name}.csv"
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not may_replace and is_tracked(kept) and kept.exists() and kept.read_bytes() != out.read_bytes():
        kept = kept.with_name(f"{name}-{blend.result['digest'][:8]}.csv")
    if kept.resolve() != out.resolve():
        with atomic_open(kept, "wb") as file, open(out, "rb") as source:
            shutil.copyfileobj(source, file)
    return kept
