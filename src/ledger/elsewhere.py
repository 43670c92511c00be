"""Rows of runs done elsewhere: in a notebook, by a colleague, or known to Kaggle alone.

In: an experiment with the settings that were changed, or a submission that Kaggle lists, and its scores. Out: a row of
the source "elsewhere" with a run id of its own. Only what is said is filled in: steps, folds and seed stand there where
they were given, and a setting that is "auto" stays empty.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

from src.base.errors import InputError, SettingError
from src.base.files import digest
from src.base.text import timestamp
from src.ledger.kaggle import Submission
from src.ledger.row import changed, techniques
from src.settings.config import Experiment, override

TOLD = {"steps": "train.steps", "folds": "folds", "seeds": "seed"}  # column -> the setting that says it


def make_elsewhere_row(
    experiment: Experiment,
    parent: Experiment | None,
    changes: Mapping[str, Any],
    *,
    competition: str,
    scores: Mapping[str, float | str | None],
    note: str = "",
) -> dict[str, Any]:
    """Return the row of a run that was done elsewhere.

    experiment, parent: complete but for what is "auto"; parent: what `experiment` is a change of. changes: the settings
    that were given by hand. scores: any of public, private, score_kind, valid and seconds.
    """
    difference = ""
    if parent:
        with contextlib.suppress(InputError):  # of weights that are not here
            difference = changed(_without_auto(experiment), _without_auto(parent))
    return _named({
        "date": timestamp(), "source": "elsewhere", "competition": competition, "experiment": experiment.name,
        "parent": parent.name if parent else experiment.parent, "changed": difference, **techniques(experiment),
        **{column: changes.get(key) for column, key in TOLD.items()}, "metric": "accuracy", "status": "ok",
        "note": note, **scores,
    })


def _without_auto(experiment: Experiment) -> Experiment:
    """Return the experiment without augmentations where the data would choose them."""
    return override(experiment, {"augment": ()}) if experiment.augment == "auto" else experiment


def make_submission_row(submission: Submission, kaggle_competition: str, competition: str) -> dict[str, Any]:
    """Return the row of a submission that Kaggle lists and no row knows; nothing tells its settings."""
    return _named({
        "date": submission.date.replace(" ", "T")[:19] + "Z", "source": "elsewhere", "competition": competition,
        "experiment": submission.file_name.removesuffix(".csv"), "metric": "accuracy", "status": "ok",
        "public": submission.public, "private": submission.private, "score_kind": "kaggle",
        "digest": submission_digest(submission, kaggle_competition),
        "note": f"Kaggle's {submission.file_name} of {submission.date[:19]}: {submission.description}".rstrip(": "),
    })


def submission_digest(submission: Submission, kaggle_competition: str) -> str:
    """Return what tells a submission from others; it stays the same when its scores change."""
    return digest([kaggle_competition, submission.file_name, submission.date, submission.description])


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with its run id, and with a digest of all it says but its date unless it has one."""
    if not row["competition"] or "/" in row["competition"]:
        raise SettingError(f"ledger: the competition '{row['competition']}': a name without '/' is needed")
    said = {column: value for column, value in row.items() if column != "date" and value not in ("", None)}
    content = row.get("digest") or digest(said)
    return row | {"digest": content, "run_id": f"{row['competition']}/{row['experiment']}-{content[:8]}"}
