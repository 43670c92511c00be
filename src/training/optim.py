"""Optimiser, learning-rate schedule and weight averaging."""

import math

import torch
from torch import Tensor, nn

from src.settings.config import Optim


def build_optimiser(parameters: list[nn.Parameter], optim: Optim, device: str) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov & Hutter, 2019) or Adam over the parameters that learn, fused into one kernel.

    Weight decay spares vectors and scalars (biases, norms) nothing: it acts on all parameters, as torch's default
    and the published recipes do.
    """
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[optim.name]
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    return kind(learning, lr=optim.lr, weight_decay=optim.weight_decay, fused=True)


def learning_rate(step: int, steps: int, optim: Optim) -> float:
    """Return the rate of 0-based `step`: linear from zero over the warm-up, then a cosine to zero at `steps`."""
    if step < optim.warmup_steps:
        return optim.lr * step / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    return optim.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


class WeightAverage:
    """Exponential moving average of a model's parameters and floating-point buffers.

    The decay starts low and rises, min(decay, (1 + n) / (10 + n)) after n updates, so that early weights fade.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.weights = _floating(model)  # listed once: to walk through a model takes a millisecond
        self.average = {name: value.detach().clone() for name, value in self.weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model's present weights."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        torch._foreach_lerp_(list(self.average.values()), list(self.weights.values()), 1.0 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and the average: once before a validation, once after."""
        for name, value in self.weights.items():
            kept = value.detach().clone()
            value.copy_(self.average[name])
            self.average[name].copy_(kept)

    def state_dict(self) -> dict[str, object]:
        """Return the average and its count."""
        return {"average": self.average, "num_updates": self.num_updates}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.num_updates = state["num_updates"]
        for name, value in state["average"].items():
            self.average[name].copy_(value)


def _floating(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent floating-point buffers by name."""
    return {name: value for name, value in model.state_dict(keep_vars=True).items() if value.is_floating_point()}
