"""What is learnt from a batch: target, loss and metric of classification, whatever the classes are called."""

import torch
from torch import Tensor
from torch.nn import functional as F


class Classification:
    """One class an utterance, cross-entropy, accuracy.

    label_smoothing: share of the target spread over all classes (Szegedy et al., 2016).
    """

    metric = "accuracy"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy (B,) of logits (B, C) in float32 against labels (B,), in nats."""
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing, reduction="none")

    @staticmethod
    def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
        """Return the share of (B,) labels that are the largest of logits (B, C), as a scalar tensor."""
        return (logits.argmax(1) == labels).float().mean()


def mix_up(inputs: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs mixed with a shuffle of themselves, the shuffle (B,), and each item's own share (B,).

    The share is max(l, 1 - l) with l from Beta(alpha, alpha) (Zhang et al., 2018), so that an item stays the larger
    part of itself. Mix the losses with the same share.
    """
    batch_size, device = len(inputs), inputs.device
    gamma = torch.stack([_gamma(alpha, batch_size, generator, device) for _ in range(2)])
    share = gamma[0] / gamma.sum(0).clamp_min(1e-12)
    share = torch.maximum(share, 1 - share)
    other = torch.randperm(batch_size, generator=generator, device=device)
    weight = share.view(-1, *[1] * (inputs.dim() - 1))
    return weight * inputs + (1 - weight) * inputs[other], other, share


def _gamma(alpha: float, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return `count` draws of Gamma(alpha, 1); torch's own sampler takes the generator as its last argument."""
    return torch._standard_gamma(torch.full((count,), alpha, device=device), generator=generator)
