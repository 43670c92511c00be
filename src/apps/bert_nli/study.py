"""One fine-tuning regime on sentence pairs as settings."""

from dataclasses import dataclass

SIZES = {  # width, layers, heads, feed-forward
    "base": (768, 12, 12, 3072),
    "small": (128, 2, 4, 512),
}


@dataclass(frozen=True)
class Study:
    """What decides a run's result, beside the pairs; `layers` and `remove` are filled in from the size."""

    regime: str = "full"
    layers: int = 9  # of freeze_first and first_layers
    heads: tuple[tuple[int, int], ...] = ()  # (layer, head) to remove
    remove: int = 0  # least important heads to remove, by the measured score
    size: str = "small"
    vocab_size: int = 8000
    max_length: int = 128  # tokens of a pair
    epochs: int = 5
    batch_size: int = 32
    lr: float = 5e-5
    seed: int = 0
    threads: int = 1  # of the CPU; with the device they decide the last bits
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The experiment's name in the ledger and in the run's folder."""
        return "bert_nli" if self.regime == "full" else f"bert_nli_{self.regime}"
