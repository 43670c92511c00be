"""The scores of a run's attention heads as rows and as a picture."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from src.base.files import atomic_open


def head_rows(importance: np.ndarray) -> list[list[float]]:
    """Return the scores of each layer's heads without the NaN that fills the array."""
    return [[score for score in row if score == score] for row in importance.tolist()]


def draw(importance: np.ndarray, path: Path, removed: Iterable[tuple[int, int]] = (), title: str = "") -> None:
    """Write the picture of (layers, heads) scores, a crossed square for each head removed; atomic."""
    from matplotlib.figure import Figure

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
