"""What wav2vec 2.0 learns without labels: find the code of a masked frame among others (Baevski et al., 2020).

Goes in: an encoder of src/encoders/wav2vec2.py and crops of waveforms. Comes out: loss and figures of a step.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.apps.pretrain.quantiser import GumbelVectorQuantiser, diversity_loss, perplexity, usage
from src.model.masking import valid_mask


def span_mask(lengths: np.ndarray, num_frames: int, start_share: float, span: int, rng: np.random.Generator) -> Tensor:
    """Return (B, num_frames) bool, True on the frames to mask: spans of `span` frames that may overlap.

    A share `start_share` (0 to 1) of an utterance's frames are drawn as starts, at least one, without replacement; a
    fraction of a start is one by chance. 0.065 and 10 (the paper's) mask 49 %. A span ends with its utterance of
    lengths (B,).
    """
    mask = np.zeros((len(lengths), num_frames + span), bool)
    for row, length in zip(mask, lengths.tolist()):
        starts = rng.permutation(length)[: max(1, int(start_share * length + rng.random()))]
        row[starts[:, None] + np.arange(span)] = True
        row[length:] = False
    return torch.from_numpy(mask[:, :num_frames])


class Contrast(NamedTuple):
    """The contrastive loss and its figures, each a mean over masked frames, as scalar tensors.

    accuracy: the share whose own code is more similar than every distractor. positive_similarity,
    negative_similarity: cosines to the own code and to distractors.
    """

    loss: Tensor
    accuracy: Tensor
    positive_similarity: Tensor
    negative_similarity: Tensor


def contrast(context: Tensor, codes: Tensor, indices: Tensor, masked: Tensor, num_negatives: int | Literal["all"],
             temperature: float) -> Contrast:
    """Return Lm: how well each masked frame's context tells its own code from those of other masked frames.

    context, codes: (B, T, D). indices: (B, T, G), the codes' entries. masked: (B, T) bool. num_negatives: "all" takes
    every other masked frame of the utterance as a distractor (the lab's), a number draws so many of them with
    replacement (the paper's 100; as its authors' code does). A distractor with the very same code is left out, as
    there. A frame without any distractor counts as wrong and adds no loss.
    """
    similarity = F.normalize(context.float(), dim=2) @ F.normalize(codes.float(), dim=2).transpose(1, 2)
    item, frame = masked.nonzero(as_tuple=True)
    similarity = similarity[item, frame]  # (M, T): each masked frame against all frames of its utterance
    own = F.one_hot(frame, masked.shape[1]).bool()
    weight = (masked[item] & ~own).float()
    if num_negatives != "all":
        has_other = weight.any(1, keepdim=True)
        drawn = torch.multinomial(torch.where(has_other, weight, 1.0), num_negatives, replacement=True)
        weight = torch.zeros_like(weight).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float)) * has_other
    weight = weight * (indices[item] != indices[item, frame][:, None]).any(2)
    positive = similarity.gather(1, frame[:, None]).squeeze(1)
    # A distractor drawn k times adds log k to its logit, which counts it k times in the softmax's denominator.
    logits = torch.where(own, positive[:, None] / temperature, similarity / temperature + weight.log())
    rivals = similarity.masked_fill(weight == 0, -torch.inf).amax(1)
    return Contrast(
        F.cross_entropy(logits, frame),
        ((positive > rivals) & (weight > 0).any(1)).float().mean(),
        positive.mean(),
        (similarity * weight).sum() / weight.sum().clamp_min(1.0),
    )


class ContrastivePretrainer(nn.Module):
    """An encoder with what pretraining alone needs: mask embedding, quantiser, and the space where both sides meet.

    encoder: with `features`, `project`, `context` and `downsample` (src/encoders/wav2vec2.py). mask_share, mask_span:
    of span_mask. num_groups, num_entries, code_dim: of the quantiser. num_negatives, similarity_temperature: of
    contrast. diversity: weight alpha of Ld. dropout: of what the quantiser sees.
    """

    def __init__(self, encoder: nn.Module, *, mask_share: float, mask_span: int, num_groups: int, num_entries: int,
                 code_dim: int, num_negatives: int | Literal["all"], similarity_temperature: float, diversity: float,
                 dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.mask_share, self.mask_span = mask_share, mask_span
        self.num_negatives, self.similarity_temperature = num_negatives, similarity_temperature
        self.diversity = diversity
        self.num_entries = num_entries
        self.mask_embedding = nn.Parameter(torch.empty(encoder.output_dim).uniform_())
        self.dropout = nn.Dropout(dropout)
        self.quantiser = GumbelVectorQuantiser(encoder.features_dim, num_groups=num_groups, num_entries=num_entries,
                                               code_dim=code_dim)
        self.code_projection = nn.Linear(code_dim, code_dim)
        self.context_projection = nn.Linear(encoder.output_dim, code_dim)

    def forward(self, waveform: Tensor, lengths: Tensor | None, rng: np.random.Generator,
                temperature: float) -> dict[str, Tensor]:
        """Return the loss Lm + alpha Ld of crops (B, N) and the figures to log, scalar tensors.

        rng: draws the spans. temperature: of the quantiser. Where the context network downsamples, mask and codes are
        downsampled alike: the mask is taken at the nearest frames, and the features there are what is quantised.
        """
        features, lengths = self.encoder.features(waveform, lengths)
        num_frames = features.shape[1]
        mask = span_mask(np.full(len(features), num_frames) if lengths is None else lengths.cpu().numpy(), num_frames,
                         self.mask_share, self.mask_span, rng).to(features.device)
        projected = torch.where(mask[..., None], self.mask_embedding.to(features.dtype), self.encoder.project(features))
        context, context_lengths = self.encoder.context(projected, lengths)
        masked, targets = self.encoder.downsample(mask), self.encoder.downsample(features)
        valid = valid_mask(context_lengths, context.shape[1])
        masked = masked if valid is None else masked & valid
        quantised = self.quantiser(self.dropout(targets[masked]), temperature)
        codes = context.new_zeros(*masked.shape, self.code_projection.out_features, dtype=torch.float32)
        codes[masked] = self.code_projection(quantised.codes).float()
        indices = quantised.indices.new_full((*masked.shape, quantised.indices.shape[1]), -1)
        indices[masked] = quantised.indices
        found = contrast(self.context_projection(context), codes, indices, masked, self.num_negatives,
                         self.similarity_temperature)
        diversity = diversity_loss(quantised.probs)
        return {
            "loss": found.loss + self.diversity * diversity, "lm": found.loss, "ld": diversity,
            "accuracy": found.accuracy, "positive_similarity": found.positive_similarity,
            "negative_similarity": found.negative_similarity,
            "code_perplexity": perplexity(usage(quantised.indices, self.num_entries)),
        }
