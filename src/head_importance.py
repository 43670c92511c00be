"""How much each attention head matters: a score measured on data, the heads to remove by it, and its picture.

`python -m src head_importance RUN` measures the heads of a finished run on the utterances that its first fold held
out, and writes the scores and the picture into the run's folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from src.errors import SettingError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Batch = TypeVar("Batch")


def measure(encoder: nn.Module, batches: Iterable[Batch], loss_of: Callable[[Batch], Tensor]) -> np.ndarray:
    """Return the importance (layers, heads) of an encoder's heads; NaN fills rows of fewer heads.

    loss_of(batch) runs the model that the encoder is part of and returns losses, (B,) or their mean. Each head's
    output is multiplied by a gate of one; its importance is the mean over examples of the loss's absolute slope in
    the gate, the layer's scores then divided by their Euclidean norm (Michel et al., 2019). No gradient is left in
    the parameters. Put the model in eval mode first, so that dropout does not blur the scores.
    """
    import numpy as np
    import torch

    from src.finetune import heads_of

    every = heads_of(encoder)
    attentions = list(dict.fromkeys(attention for row in every for attention, _ in row))
    gates: dict[int, Tensor] = {}

    def gated(index: int) -> Callable[[nn.Module, tuple], tuple]:
        def hook(module: nn.Module, inputs: tuple) -> tuple:
            num_heads = attentions[index].num_heads
            gates[index] = torch.ones(len(inputs[0]), 1, num_heads, 1, device=inputs[0].device, requires_grad=True)
            return ((inputs[0].unflatten(2, (num_heads, -1)) * gates[index]).flatten(2),)
        return hook

    hooks = [attention.output.register_forward_pre_hook(gated(i)) for i, attention in enumerate(attentions)]
    total, num_examples = [0.0] * len(attentions), 0
    try:
        for batch in batches:
            with torch.enable_grad():
                slopes = torch.autograd.grad(loss_of(batch).sum(), [gates[i] for i in range(len(attentions))])
            num_examples += len(slopes[0])
            total = [old + slope.abs().sum(0).flatten().double().cpu() for old, slope in zip(total, slopes)]
    finally:
        for hook in hooks:
            hook.remove()
    if not num_examples:
        raise SettingError("head importance: there is no batch to measure it on")
    mean = {attention: score / num_examples for attention, score in zip(attentions, total)}
    importance = np.full((len(every), max(map(len, every))), np.nan)
    for layer, row in enumerate(every):
        scores = np.array([mean[attention][head].item() for attention, head in row])
        importance[layer, : len(row)] = scores / max(np.linalg.norm(scores), 1e-12)
    return importance


def least_important(importance: np.ndarray, num_heads: int) -> tuple[tuple[int, int], ...]:
    """Return the `num_heads` heads, (layer, head), of the smallest importance, each layer keeping its best one.

    Raises SettingError when there are not so many to remove.
    """
    import numpy as np

    can_go = np.isfinite(importance)
    can_go[np.arange(len(importance)), np.nanargmax(importance, 1)] = False
    if not 1 <= num_heads <= can_go.sum():
        raise SettingError(f"finetune.remove: {num_heads}, but 1 to {can_go.sum()} heads can go when each layer keeps "
                           "one")
    order = np.argsort(np.where(can_go, importance, np.inf), axis=None, kind="stable")[:num_heads]
    return tuple(sorted((int(i // importance.shape[1]), int(i % importance.shape[1])) for i in order))


def remove_least_important(encoder: nn.Module, num_heads: int, directory: Path, batches: Iterable[Batch],
                           loss_of: Callable[[Batch], Tensor]) -> None:
    """Measure an encoder's heads, take the `num_heads` least important out, and keep scores and picture in a folder.

    Writes heads.json and heads.png; where heads.json is there already, what it names is removed without measuring, so
    that a resumed run stays the run that it was. batches and loss_of: see `measure`.
    """
    from src import distributed
    from src.files import read_json, write_json
    from src.finetune import remove_heads

    path = directory / "heads.json"
    if distributed.is_main() and not path.exists():
        importance = measure(encoder, batches, loss_of)
        removed = least_important(importance, num_heads)
        draw(importance, directory / "heads.png", removed, "importance of heads; crossed: removed")
        write_json(path, {"removed": removed, "importance": _rows(importance)})
    remove_heads(encoder, distributed.told(read_json(path)["removed"] if distributed.is_main() else None))


def _rows(importance: np.ndarray) -> list[list[float]]:
    """Return the scores of each layer's heads without the NaN that fills the array."""
    return [[score for score in row if score == score] for row in importance.tolist()]


def draw(importance: np.ndarray, path: Path, removed: Iterable[tuple[int, int]] = (), title: str = "") -> None:
    """Write the picture of (layers, heads) scores, a crossed square for each head removed; atomic."""
    from matplotlib.figure import Figure

    from src.files import atomic_open

    num_layers, num_heads = importance.shape
    figure = Figure(figsize=(1.8 + 0.5 * num_heads, 1.4 + 0.4 * num_layers), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(importance, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto")
    for layer, head in removed:
        axes.plot(head, layer, "x", color="white", markersize=9, markeredgewidth=2)
    axes.set(xlabel="head", ylabel="layer", title=title, xticks=range(num_heads), yticks=range(num_layers),
             xticklabels=range(1, num_heads + 1), yticklabels=range(1, num_layers + 1))
    figure.colorbar(picture, label="importance, layer's norm 1")
    with atomic_open(path, "wb") as file:
        figure.savefig(file, format="png", dpi=150)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src head_importance`."""
    parser.add_argument("run", metavar="RUN", help="a finished run, or a unique prefix of its name")
    parser.add_argument("--utterances", type=int, default=200, metavar="N", help="held-out utterances, from the "
                        "shortest on (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE.png", type=Path, help="where to draw (default: in the run's folder)")


def main(options: argparse.Namespace) -> None:
    """Measure the heads of a run's first fold; print, write and draw their scores."""
    from src.files import write_json
    from src.finished_run import FinishedRun
    from src.model import load_model

    if options.utterances < 1:
        raise SettingError(f"--utterances {options.utterances}: must be at least 1")
    run = FinishedRun.open(options.run)
    model, experiment, _ = load_model(run.fold_dirs[0] / "model.pt")
    importance = measure_run(model, run.store(), experiment, options.utterances)
    out = options.out or run.directory / "head_importance.png"
    draw(importance, out, title=f"{experiment.name}: importance of heads")
    write_json(out.with_suffix(".json"), {"importance": _rows(importance)})
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
