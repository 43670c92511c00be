"""Every experiment by name: BASE in full, each other one as its difference from a parent, with its hypothesis.

To ask a new question add one line to EXPERIMENTS: (parent, hypothesis, {dotted key: value}).
"""

from pathlib import Path
from typing import Any

from src.config import Experiment, Infer, Optim, Train, from_json, override, part
from src.errors import InputError, SettingError, nearest

# The course's sample: one post-norm Transformer layer on random 128-frame crops, mean pooling, an MLP head. Its 70,000
# steps are for 56,666 utterances; 8,000 are enough for a few thousand (--set train.steps=70000 for the course's own).
BASE = Experiment(
    name="course",
    hypothesis="the course's sample notebook: what a participant starts from",
    encoder=part("transformer", d_model=80, num_layers=1, num_heads=2, feed_forward_dim=256, dropout=0.1),
    pooling=part("mean"),
    head=part("mlp"),
    optim=Optim(lr=1e-3, weight_decay=0.01, warmup_steps=1000),
    train=Train(steps=8000, batch_size=32, crop_frames=128),
    infer=Infer(),
)

EXPERIMENTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "seed88": (
        "course",
        "the published solution that reached 0.88125 / 0.87900: Conformer x3, self-attention pooling, AM-softmax",
        {
            "encoder": part("conformer", d_model=256, num_layers=3, num_heads=4, feed_forward_dim=512,
                            kernel_size=31, dropout=0.3),
            "pooling": part("self_attention"),
            "embedding.batch_norm": True,
            "head": part("am_softmax", scale=30.0, margin=0.35),
            "train.steps": 6000,
        },
    ),
}


def names() -> list[str]:
    """Return the names of all experiments."""
    return [BASE.name, *EXPERIMENTS]


def get(name: str) -> Experiment:
    """Return an experiment by name, or the one in a promoted .json file; raises SettingError or InputError."""
    if name.endswith(".json"):
        return _read_file(Path(name))
    if name == BASE.name:
        return BASE
    if name not in EXPERIMENTS:
        raise SettingError(f"unknown experiment '{name}'{nearest(name, names())}")
    parent, hypothesis, changes = EXPERIMENTS[name]
    return override(get(parent), {**changes, "name": name, "parent": parent, "hypothesis": hypothesis})


def _read_file(path: Path) -> Experiment:
    import json

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable experiment file ({error}); write one with `tune promote`") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: an experiment file holds one JSON object")
    return from_json(content)


def smoke(experiment: Experiment) -> Experiment:
    """Return `experiment` cut to a minute or two: few steps on one fold, everything else as it is."""
    return override(experiment, {"folds": 1, "train.steps": 30, "train.valid_every": 15, "name": experiment.name})
