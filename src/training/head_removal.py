"""Remove the attention heads that matter least before a fold is trained."""

from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor, nn

from src.base.distributed import is_main
from src.base.files import read_json, write_json
from src.model.attention_heads import Batch, least_important, measure, remove_heads
from src.runs.head_scores import draw, head_rows
from src.training.collectives import broadcast


def remove_least_important(encoder: nn.Module, num_heads: int, directory: Path, batches: Iterable[Batch],
                           loss_of: Callable[[Batch], Tensor]) -> None:
    """Measure an encoder's heads, take the `num_heads` least important out, and keep scores and picture in a folder.

    Writes heads.json and heads.png; where heads.json is there already, what it names is removed without measuring, so
    that a resumed run stays the run that it was. batches and loss_of: see `measure`.
    """
    path = directory / "heads.json"
    if is_main() and not path.exists():
        importance = measure(encoder, batches, loss_of)
        removed = least_important(importance, num_heads)
        draw(importance, directory / "heads.png", removed, "importance of heads; crossed: removed")
        write_json(path, {"removed": removed, "importance": head_rows(importance)})
    remove_heads(encoder, broadcast(read_json(path)["removed"] if is_main() else None))
