"""Statistics of an utterance's cepstra: a simple description of a voice that a handful of short utterances can fit."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn

from src.model.classical.cepstra import describe_frames
from src.model.classical.fitted import one_thread
from src.model.classical.linear import LinearClassifier

SAMPLE_UTTERANCES = 20_000  # whose statistics give the principal components
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)


class Statistics(nn.Module):
    """Classify speakers by means, standard deviations and quantiles of their utterances' cepstra.

    Each utterance is the mean, standard deviation and five quantiles of its cepstra and the standard deviation of their
    deltas; every statistic is brought to unit variance; principal components, unit length and logistic regression
    follow.

    kind: "logmel" or "cepstra". c: inverse strength of the penalty.
    """

    def __init__(self, kind: str, *, num_cepstra: int = 24, loud_share: float = 0.8, mean_norm: bool = False,
                 num_components: int = 512, c: float = 30.0) -> None:
        super().__init__()
        self.kind, self.num_cepstra, self.loud_share, self.mean_norm = kind, num_cepstra, loud_share, mean_norm
        self.num_components, self.c = num_components, c
        self.classifier = LinearClassifier()

    @torch.no_grad()
    def fit(self, utterances: Sequence[np.ndarray | Tensor], labels: np.ndarray, num_speakers: int, seed: int) -> None:
        """Fit to utterances, each (T, F), with labels (N,) from 0 to num_speakers - 1.

        utterances: read one at a time. The same numbers whatever the number of threads.
        """
        generator = Generator().manual_seed(seed)
        with one_thread():
            vectors = self._vectors(utterances)
            sample = torch.randperm(len(vectors), generator=generator)[:SAMPLE_UTTERANCES].sort().values
            self.classifier.fit_components(vectors[sample], self.num_components, standardise=True)
            self.classifier.fit_regression(self.classifier.project(vectors), labels, num_speakers, self.c)

    def _vectors(self, utterances: Sequence[np.ndarray | Tensor]) -> Tensor:
        """Return the statistics (N, 8 C) of the utterances."""
        vectors = []
        for i in range(len(utterances)):
            frames = describe_frames(torch.as_tensor(utterances[i]), self.kind, self.num_cepstra, self.loud_share,
                                     self.mean_norm)
            cepstra = frames[:, : frames.shape[1] // 2]
            quantiles = torch.quantile(cepstra, torch.tensor(QUANTILES), 0)
            vectors.append(torch.cat([cepstra.mean(0), frames.std(0, correction=0), quantiles.flatten()]))
        return torch.stack(vectors)

    @torch.no_grad()
    def logits(self, utterances: Sequence[np.ndarray | Tensor]) -> Tensor:
        """Return logits (N, S) of utterances, each (T, F), float32."""
        with one_thread():
            return self.classifier(self.classifier.project(self._vectors(utterances)))
