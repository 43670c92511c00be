"""How much each attention head matters: a score measured on data, the heads to remove by it, and its picture.

`python -m src head_importance RUN` measures the heads of a finished run on the utterances that its first fold held
out, and writes the scores and the picture into the run's folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.base.errors import SettingError
from src.model.attention_heads import measure
from src.runs.head_scores import draw, head_rows

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src head_importance`."""
    parser.add_argument("run", metavar="RUN", help="a finished run, or a unique prefix of its name")
    parser.add_argument("--utterances", type=int, default=200, metavar="N", help="held-out utterances, from the "
                        "shortest on (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE.png", type=Path, help="where to draw (default: in the run's folder)")


def main(options: argparse.Namespace) -> None:
    """Measure the heads of a run's first fold; print, write and draw their scores."""
    from src.base.files import write_json
    from src.model.checkpoint import load_model
    from src.runs.folder import Run
    from src.store.store import Store

    if options.utterances < 1:
        raise SettingError(f"--utterances {options.utterances}: must be at least 1")
    run = Run.open(options.run)
    model, experiment, _ = load_model(run.fold(0).model_path)
    importance = measure_run(model, Store.open(run.store_dir()), experiment, options.utterances)
    out = options.out or run.directory / "head_importance.png"
    draw(importance, out, title=f"{experiment.name}: importance of heads")
    write_json(out.with_suffix(".json"), {"importance": head_rows(importance)})
    for layer, row in enumerate(importance, start=1):
        print(f"layer {layer:2}: " + " ".join(f"{score:.2f}" for score in row))
    print(out)


def measure_run(model: nn.Module, store: Any, experiment: Any, num_utterances: int) -> np.ndarray:
    """Return the importance of a speaker model's heads on a store's held-out utterances of the first fold."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    rows = store.folds(experiment.folds)[0][1]
    rows = rows if len(rows) else store.train_rows  # of a run without validation
    rows = rows[np.argsort(store.num_frames[rows], kind="stable")][:num_utterances]
    unit = store.hop_length if store.kind == "waveform" else 1

    def loss_of(batch: Any) -> torch.Tensor:
        frames, lengths = model.extract(batch.inputs, batch.lengths)
        return F.cross_entropy(model(frames, lengths), batch.labels, reduction="none")

    batches = (batch for _, batch in store.batches(rows, experiment.infer.frame_budget * unit))
    return measure(model.encoder, batches, loss_of)
