"""The parts of an experiment composed into one model, and its checkpoint, which rebuilds it.

inputs -> [log-mel, for a store of waveforms] -> [mean normalisation] -> encoder -> pooling -> embedding -> head
"""

import torch
from torch import Tensor, nn

from src.model import finetune
from src.model.frontend import LogMel
from src.model.masking import mean_normalise
from src.model.norms import MaskedBatchNorm1d
from src.settings.config import Embedding, Experiment
from src.settings.parts import build, lookup


class SpeakerModel(nn.Module):
    """Who says an utterance: log-mels, cepstra or a waveform in, one logit a speaker out.

    experiment: complete (see src.settings.auto). kind: "logmel", "cepstra" or "waveform"; input_dim: features per frame
    of the store. num_copies: classes per speaker in the training head (speed-perturbed copies as speakers of their
    own); logits without labels are always (B, num_speakers), the copies' posteriors summed.
    """

    def __init__(self, experiment: Experiment, kind: str, input_dim: int, num_speakers: int,
                 num_copies: int = 1) -> None:
        super().__init__()
        self.num_speakers, self.num_copies = num_speakers, num_copies
        self.mean_norm = experiment.frontend.mean_norm
        self.log_mel = None
        if kind == "waveform" and lookup("encoder", experiment.encoder.name).takes == "frames":
            self.log_mel = LogMel(experiment.features)
            input_dim = experiment.features.num_mels
        input_dim *= 2 if self.mean_norm == "both" else 1
        self.encoder = build("encoder", experiment.encoder, input_dim)
        finetune.apply(self.encoder, **vars(experiment.finetune))
        self.pooling = build("pooling", experiment.pooling, self.encoder.output_dim)
        self.embedding = EmbeddingLayers(self.pooling.output_dim, experiment.embedding)
        self.head = build("head", experiment.head, self.embedding.output_dim, num_speakers * num_copies)

    @torch.no_grad()
    def extract(self, inputs: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return what the encoder takes: log-mels (B, T, F) of waveforms (B, N) where it takes frames, else inputs."""
        if self.log_mel is None:
            return inputs, lengths
        frames = self.log_mel(inputs, lengths)
        return frames, None if lengths is None else self.log_mel.num_frames(lengths)

    def embed(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the speaker embedding (B, D) of what `extract` returned."""
        if self.mean_norm:
            normalised = mean_normalise(frames, lengths)
            frames = torch.cat([frames, normalised], 2) if self.mean_norm == "both" else normalised
        return self.embedding(self.pooling(*self.encoder(frames, lengths)))

    def forward(self, frames: Tensor, lengths: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Return logits in float32: (B, num_speakers) without labels, (B, num_speakers * num_copies) with labels (B,).

        Labels (P, B) are P targets of each item, as mixup has them, and give (P, B, num_speakers * num_copies).
        """
        embedding = self.embed(frames, lengths)
        if labels is not None and labels.dim() == 2:
            return torch.stack([self.head(embedding, targets) for targets in labels])
        logits = self.head(embedding, labels)
        if labels is not None or self.num_copies == 1:
            return logits
        return logits.unflatten(1, (self.num_copies, self.num_speakers)).logsumexp(1)


class EmbeddingLayers(nn.Module):
    """Linear projection, batch norm and dropout between pooling and head, each where the experiment asks for it."""

    def __init__(self, input_dim: int, embedding: Embedding) -> None:
        super().__init__()
        self.output_dim = embedding.dim or input_dim
        self.projection = nn.Linear(input_dim, embedding.dim) if embedding.dim else nn.Identity()
        self.norm = MaskedBatchNorm1d(self.output_dim) if embedding.batch_norm else nn.Identity()
        self.dropout = nn.Dropout(embedding.dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return (B, output_dim) of pooled vectors (B, input_dim)."""
        return self.dropout(self.norm(self.projection(pooled)))


def num_parameters(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
