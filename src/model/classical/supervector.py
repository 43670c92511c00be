"""GMM-UBM supervectors: where an utterance pulls the Gaussians that describe everybody's frames."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn

from src.model.classical.cepstra import describe_frames
from src.model.classical.fitted import one_thread
from src.model.classical.linear import LinearClassifier
from src.model.classical.mixture import GaussianMixture

SAMPLE_UTTERANCES = 4096  # whose supervectors give the principal components
BLOCK = 64  # supervectors held at once
SAMPLE_FRAMES = 100_000  # that the mixture is fitted to
OCCUPATION_SCALE = 0.1  # of the deviations of the Gaussians' occupation beside those of their means


class Supervector(nn.Module):
    """Classify speakers by their utterances' adapted Gaussian means.

    The means of a mixture fitted to everybody's frames are adapted to each utterance by MAP (Reynolds, Quatieri & Dunn,
    2000); their shifts, scaled by sqrt(weight / variance) so that distances bound the divergence between the adapted
    mixtures (Campbell, Sturim & Reynolds, 2006), are the supervector. Beside them stands how much more or less than
    everybody's frames the utterance's own occupy each Gaussian, as in the Fisher vector (Perronnin & Dance, 2007):
    where utterances are short or of few sounds, a speaker is known by the Gaussians that he uses at all. Principal
    components, unit length and logistic regression follow.

    kind: "logmel" or "cepstra". num_gaussians: at most; one for each frames_per_gaussian training frames. relevance:
    frames of a Gaussian at which the utterance counts as much as everybody. c: inverse strength of the penalty.
    """

    def __init__(self, kind: str, *, num_cepstra: int = 24, loud_share: float = 0.8, mean_norm: bool = False,
                 num_gaussians: int = 64, frames_per_gaussian: int = 400, relevance: float = 8.0,
                 num_components: int = 512, c: float = 30.0) -> None:
        super().__init__()
        self.kind, self.num_cepstra, self.loud_share, self.mean_norm = kind, num_cepstra, loud_share, mean_norm
        self.num_gaussians, self.frames_per_gaussian, self.relevance = num_gaussians, frames_per_gaussian, relevance
        self.num_components, self.c = num_components, c
        self.mixture = GaussianMixture()
        self.classifier = LinearClassifier()

    @torch.no_grad()
    def fit(self, utterances: Sequence[np.ndarray | Tensor], labels: np.ndarray, num_speakers: int, seed: int) -> None:
        """Fit to utterances, each (T, F), with labels (N,) from 0 to num_speakers - 1.

        utterances: read one at a time, several times. The same numbers whatever the number of threads.
        """
        generator = Generator().manual_seed(seed)
        with one_thread():
            order = torch.randperm(len(utterances), generator=generator)[:SAMPLE_UTTERANCES].sort().values.tolist()
            self._fit_mixture([self._frames(utterances[i]) for i in order], generator)
            sample = torch.stack([self._vector(utterances[i]) for i in order])
            self.classifier.fit_components(sample, self.num_components, standardise=False)
            self.classifier.fit_regression(self.embed(utterances), labels, num_speakers, self.c)

    def _fit_mixture(self, frames: list[Tensor], generator: Generator) -> None:
        flat = torch.cat(frames)
        num_gaussians = min(self.num_gaussians, max(1, len(flat) // self.frames_per_gaussian))
        if len(flat) > SAMPLE_FRAMES:
            flat = flat[torch.randperm(len(flat), generator=generator)[:SAMPLE_FRAMES]]
        self.mixture.fit(flat, num_gaussians, generator)

    def _frames(self, utterance: np.ndarray | Tensor) -> Tensor:
        return describe_frames(torch.as_tensor(utterance), self.kind, self.num_cepstra, self.loud_share,
                               self.mean_norm)

    def _vector(self, utterance: np.ndarray | Tensor) -> Tensor:
        """Return the supervector (K C + K,) of one utterance."""
        mixture = self.mixture
        frames = self._frames(utterance)
        occupation, total = mixture.statistics(frames)
        shift = (total - occupation[:, None] * mixture.means) / (occupation[:, None] + self.relevance)
        scaled = shift * (mixture.weights[:, None] / mixture.variances).sqrt()
        usage = (occupation / len(frames) - mixture.weights) / mixture.weights.sqrt()
        return torch.cat([scaled.flatten(), OCCUPATION_SCALE * usage])

    def embed(self, utterances: Sequence[np.ndarray | Tensor]) -> Tensor:
        """Return the utterances' supervectors in principal components, of length one, (N, P)."""
        blocks = [range(first, min(first + BLOCK, len(utterances))) for first in range(0, len(utterances), BLOCK)]
        return torch.cat([self.classifier.project(torch.stack([self._vector(utterances[i]) for i in block]))
                          for block in blocks])

    @torch.no_grad()
    def logits(self, utterances: Sequence[np.ndarray | Tensor]) -> Tensor:
        """Return logits (N, S) of utterances, each (T, F), float32."""
        with one_thread():
            return self.classifier(self.embed(utterances))
