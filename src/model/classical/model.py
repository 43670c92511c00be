"""A classical speaker model in the place of a network: whole utterances in, logits out, fitted without steps."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from src.model.frontend import LogMel
from src.model.masking import mean_normalise
from src.settings.config import Experiment
from src.settings.parts import build


class ClassicalModel(nn.Module):
    """Who says an utterance, by an encoder that takes whole utterances; called as SpeakerModel is.

    experiment: complete. kind: of the store, "logmel", "cepstra" or "waveform".
    """

    num_copies = 1

    def __init__(self, experiment: Experiment, kind: str, num_speakers: int) -> None:
        super().__init__()
        self.num_speakers = num_speakers
        self.mean_norm = experiment.frontend.mean_norm is True
        self.log_mel = LogMel(experiment.features) if kind == "waveform" else None
        self.encoder = build("encoder", experiment.encoder, "cepstra" if kind == "cepstra" else "logmel")

    def fit(self, utterances: Sequence[Tensor], labels: np.ndarray, seed: int) -> None:
        """Fit to utterances of frames, each (T, F), with labels (N,)."""
        self.encoder.fit(utterances, labels, self.num_speakers, seed)

    @torch.no_grad()
    def extract(self, inputs: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, T, F): log-mels of waveforms (B, N), or the inputs, less their mean where that is asked."""
        if self.log_mel is not None:
            inputs = self.log_mel(inputs, lengths)
            lengths = None if lengths is None else self.log_mel.num_frames(lengths)
        return (mean_normalise(inputs, lengths) if self.mean_norm else inputs), lengths

    def embed(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the vectors (B, P) that the classifier sees of frames (B, T, F)."""
        return self.encoder.embed(self._utterances(frames, lengths))

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return logits (B, num_speakers) of frames (B, T, F) and their lengths (B,)."""
        return self.encoder.logits(self._utterances(frames, lengths))

    def _utterances(self, frames: Tensor, lengths: Tensor | None) -> list[Tensor]:
        if lengths is None:
            return list(frames)
        return [item[:length] for item, length in zip(frames, lengths.tolist())]
