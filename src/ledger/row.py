"""One row of the ledger: its columns, how a value is written in a cell, and the row of a run.

In: a run's experiment as trained, its parent's, and its figures. Out: {column: value} for `src.ledger.file.append`.
"""

import json
import math
import numbers
from collections.abc import Mapping
from typing import Any

from src.base.errors import SettingError
from src.base.files import digest as digest_of
from src.base.git import commit
from src.base.text import timestamp
from src.settings import parts
from src.settings.config import Experiment, flatten, to_json
from src.settings.weights import hash_weights

TECHNIQUES = {  # column -> the setting it shows; the first that the experiment has
    "encoder": ("encoder",),
    "d_model": ("encoder.d_model", "encoder.channels"),
    "layers": ("encoder.num_layers",),
    "heads": ("encoder.num_heads",),
    "dropout": ("encoder.dropout",),
    "pooling": ("pooling",),
    "batch_norm": ("embedding.batch_norm",),
    "embedding_dropout": ("embedding.dropout",),
    "head": ("head",),
    "scale": ("head.scale",),
    "margin": ("head.margin",),
    "mean_norm": ("frontend.mean_norm",),
    "augment": (),  # the names, joined by +
    "batch_size": ("train.batch_size",),
    "crop_frames": ("train.crop_frames",),
    "lr": ("optim.lr",),
    "ema": ("optim.ema_decay",),
}
FIGURES = ("params", "steps", "folds", "seeds", "metric", "train", "valid", "shifted", "conditions", "public",
           "private", "score_kind", "seconds", "device")
COLUMNS = ("date", "source", "stage", "competition", "run_id", "experiment", "parent", "changed", *TECHNIQUES, *FIGURES,
           "status", "commit", "digest", "group", "parent_group", "command", "note")
NUMBERS = ("params", "steps", "train", "valid", "shifted", "public", "private", "seconds")
CHOICES = {
    "source": ("ours", "elsewhere", "published"),
    "stage": ("train", "pretrain", "ablate", "tune", "ensemble", ""),
    "score_kind": ("kaggle", "local", "published", ""),
    "status": ("ok", "failed", "pruned"),
}
# Runs that differ in these ask the same question.
REPEATS = ("seed", "train.device", "train.threads", "train.processes", "train.compile")


def make_row(experiment: Experiment, *, competition: str, run_id: str, digest: str, result: Mapping[str, Any],
             parent: Experiment | None = None, stage: str = "train", command: str = "") -> dict[str, Any]:
    """Return the row of a run.

    experiment, parent: as trained, with every "auto" filled in for the same data; the row says how they differ.
    result: what the run wrote of itself, of which any of FIGURES, `finished` (its date, else now), `status` ("ok" by
    default) and `note` are taken:
    params and steps as counts, train, valid, public and private in the unit of `metric` (accuracy in [0, 1] by
    default), seconds. What is missing comes from the experiment or stays empty.
    command: the shell command that runs it again.
    """
    row = techniques(experiment)
    row |= {"steps": experiment.train.steps, "folds": experiment.folds, "seeds": experiment.seed, "metric": "accuracy",
            "device": experiment.train.device, "status": "ok", "note": ""}
    row |= {key: result[key] for key in (*FIGURES, "status", "note") if key in result}
    return row | {
        "date": result.get("finished") or timestamp(),
        "source": "ours",
        "stage": stage,
        "competition": competition,
        "run_id": run_id,
        "experiment": experiment.name,
        "parent": parent.name if parent else experiment.parent,
        "changed": changed(experiment, parent) if parent else "",
        "commit": commit(),
        "digest": digest,
        "group": group(experiment),
        "parent_group": group(parent) if parent else "",
        "command": command,
    }


def techniques(experiment: Experiment) -> dict[str, Any]:
    """Return the cells of an experiment's techniques; those that the data would choose ("auto") are None."""
    flat = flatten(experiment)
    row = {column: next((flat[key] for key in keys if key in flat), None) for column, keys in TECHNIQUES.items()}
    row["augment"] = None if experiment.augment == "auto" else "+".join(part.name for part in experiment.augment)
    return {column: None if value == "auto" else value for column, value in row.items()}


def make_blend_row(result: Mapping[str, Any], *, competition: str, command: str) -> dict[str, Any]:
    """Return the row of a blend of several runs. result: what the ensemble stage wrote of it."""
    members = [f"{weight:.3g} of {run_id.partition('/')[2]}" for run_id, weight in result["members"].items()]
    return {
        "date": result["finished"], "source": "ours", "stage": "ensemble", "competition": competition,
        "run_id": result["run_id"], "experiment": "ensemble", "changed": " + ".join(members),
        "params": result["params"], "metric": "accuracy", "valid": result["valid"], "seconds": result["seconds"],
        "status": "ok",
        "commit": commit(), "digest": result["digest"], "group": result["digest"][:8], "command": command,
        "note": "; ".join(["accuracy of cross-fitted weights"] * (result["valid"] is not None)
                          + ["test matched to even classes"] * (result["test_classes"]["num_changed"] is not None)),
    }


def changed(experiment: Experiment, parent: Experiment) -> str:
    """Return "key: old → new; …" of the settings in which two complete experiments differ, repeats aside.

    Weights are shown with the start of their content's digest: other weights may have come to lie at the same path.
    A part that takes another's place brings its own settings: those at their defaults are not listed.
    """
    new, old = _by_content(experiment), _by_content(parent)
    differences = []
    for key in dict.fromkeys([*new, *old]):
        if key in REPEATS or (key in new and key in old and new[key] == old[key]):
            continue
        if key.startswith("augment.") and key.endswith(".on"):
            differences.append(f"{key.removesuffix('.on')}: {'off → on' if key in new else 'on → off'}")
        elif key in new and not (key not in old and new[key] == _default(key, new)):
            differences.append(f"{key}: {_say(old[key]) if key in old else 'none'} → {_say(new[key])}")
    return "; ".join(differences)


def _by_content(experiment: Experiment) -> dict[str, Any]:
    flat = flatten(experiment)
    if flat.get("encoder.weights"):
        content = hash_weights(parts.essential(experiment))["encoder"]["weights"]
        flat["encoder.weights"] += f" ({content[:8]})"
    return flat


def _default(key: str, flat: Mapping[str, Any]) -> Any:
    slot, _, setting = key.partition(".")
    if slot == "augment":
        name, _, setting = setting.partition(".")
    else:
        name = flat[slot]
    return to_json(parts.lookup(slot, name).settings[setting])


def _say(value: Any) -> str:
    if value is None or isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    return to_cell("changed", value)


def group(experiment: Experiment) -> str:
    """Return 8 hex digits that runs share when they differ in nothing but the seed and the machine.

    Raises InputError where encoder.weights is not there.
    """
    settings = hash_weights(parts.essential(experiment))
    for key in REPEATS:
        section, _, name = key.rpartition(".")
        (settings.get(section, {}) if section else settings).pop(name, None)
    return digest_of(settings)[:8]


def to_cell(column: str, value: Any) -> str:
    """Return a value as the text of its column; None and non-finite numbers are empty. Raises SettingError."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        number = float(value)
        if not math.isfinite(number):
            return ""
        return f"{number:.1f}" if column == "seconds" else f"{number:.6g}"
    if isinstance(value, str):
        return value.replace("\r\n", "\n").replace("\r", "\n")  # a carriage return marks a foreign editor here
    raise SettingError(f"ledger: column '{column}' cannot hold a {type(value).__name__}: {value!r}")


def problem_of(row: Mapping[str, str]) -> str:
    """Return what is wrong with a row's cells, or ""."""
    for column, choices in CHOICES.items():
        if row[column] not in choices:
            return f"{column} is {row[column]!r}, not one of {', '.join(filter(None, choices))}"
    for column in NUMBERS:
        try:
            finite = math.isfinite(float(row[column] or 0))
        except ValueError:
            finite = False
        if not finite:
            return f"{column} is {row[column]!r}, not a number"
    for column in ("train", "valid", "shifted", "public", "private"):
        if row["metric"] == "accuracy" and not 0 <= float(row[column] or 0) <= 1:
            return f"{column} is {row[column]}, but an accuracy lies between 0 and 1"
    if bool(row["public"] or row["private"]) != bool(row["score_kind"]):
        return "public or private scores go together with their score_kind"
    return ""
