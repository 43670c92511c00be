"""Gumbel vector quantiser: features in, one code of a learnt codebook for each out (Baevski et al., 2020)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Quantised(NamedTuple):
    """Codes (M, code_dim), the chosen entry of each group (M, num_groups), and the entries' mean probabilities
    (num_groups, num_entries) over the M features, which the diversity loss works on."""

    codes: Tensor
    indices: Tensor
    probs: Tensor


class GumbelVectorQuantiser(nn.Module):
    """Choose an entry in each of several codebooks and concatenate them (product quantisation; Jang et al., 2017).

    In training the choice is drawn with Gumbel noise, and the gradient flows as if the softmax of the noisy scores
    had been used (straight through); else it is the likeliest entry. code_dim: size of a code, which num_groups
    divides (else ValueError). Scores and entries start as in the authors' code.
    """

    def __init__(self, input_dim: int, *, num_groups: int, num_entries: int, code_dim: int) -> None:
        super().__init__()
        if code_dim % num_groups:
            raise ValueError(f"num_groups {num_groups} does not divide the code's size {code_dim}")
        self.num_groups = num_groups
        self.scores = nn.Linear(input_dim, num_groups * num_entries)
        nn.init.normal_(self.scores.weight)
        nn.init.zeros_(self.scores.bias)
        self.entries = nn.Parameter(torch.empty(num_groups, num_entries, code_dim // num_groups).uniform_())

    def forward(self, features: Tensor, temperature: float) -> Quantised:
        """Return what features (M, input_dim) are quantised to; a high temperature makes the gradient smoother."""
        scores = self.scores(features).float().unflatten(1, (self.num_groups, -1))
        if self.training:
            chosen = F.gumbel_softmax(scores, temperature, hard=True)
        else:
            chosen = F.one_hot(scores.argmax(2), scores.shape[2]).float()
        codes = torch.einsum("mgv,gvd->mgd", chosen, self.entries.float())
        return Quantised(codes.flatten(1), chosen.argmax(2), scores.softmax(2).mean(0))


def diversity_loss(probs: Tensor) -> Tensor:
    """Return Ld, the mean of p log p over groups and entries of probs (G, V) (the paper's equation 4).

    It lies between -log(V) / V, where all entries are as likely, and 0.
    """
    return torch.xlogy(probs, probs.clamp_min(torch.finfo(probs.dtype).tiny)).mean()  # at 0 its slope is no number


def perplexity(probs: Tensor) -> Tensor:
    """Return exp(entropy) of probs (G, V), the mean over groups: as if so many entries of V were used equally."""
    return (-torch.xlogy(probs, probs).sum(1)).exp().mean()


def usage(indices: Tensor, num_entries: int) -> Tensor:
    """Return the share (G, V) in which each entry was chosen in indices (M, G)."""
    return F.one_hot(indices, num_entries).double().mean(0)
