"""From one vector per utterance to logits: principal components, unit length, logistic regression."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from src.model.classical.fitted import Fitted

MIN_EIGENVALUE = 1e-10  # as a share of the largest; components below it are rounding errors
MAX_ITERATIONS = 200
TOLERANCE = 1e-6  # of the mean loss's gradient
BLOCK_ROWS = 4096


class LinearClassifier(Fitted):
    """Logits of vectors (N, D).

    centre, spread: (D,) mean and scale that a vector is brought to zero and one by. components: (D, P). weight: (S, P).
    bias: (S,).
    """

    fitted = ("centre", "spread", "components", "weight", "bias")

    def fit_components(self, vectors: Tensor, num_components: int, standardise: bool) -> None:
        """Keep the directions of the largest variance of vectors (N, D), at most num_components.

        standardise: give every dimension unit variance first, for dimensions of unlike units.
        """
        vectors = vectors.double()
        centre = vectors.mean(0)
        vectors = vectors - centre
        spread = vectors.square().mean(0).sqrt().clamp_min(1e-6) if standardise else torch.ones_like(centre)
        vectors = vectors / spread
        is_wide = vectors.shape[0] < vectors.shape[1]
        values, directions = torch.linalg.eigh(vectors @ vectors.T if is_wide else vectors.T @ vectors)
        keep = values.flip(0)[:num_components] > MIN_EIGENVALUE * values[-1]
        values, directions = (part.flip(-1)[..., : max(1, int(keep.sum()))] for part in (values, directions))
        components = vectors.T @ directions / values.clamp_min(1e-300).sqrt() if is_wide else directions
        self.set_fitted(centre=centre, spread=spread, components=components)

    def project(self, vectors: Tensor) -> Tensor:
        """Return vectors (N, D) in principal components, (N, P), each of length one."""
        return F.normalize((vectors - self.centre) / self.spread @ self.components, dim=1)

    def fit_regression(self, projected: Tensor, labels: np.ndarray, num_speakers: int, c: float) -> None:
        """Fit the classifier to what `project` returned, (N, P), of utterances with labels (N,)."""
        weight, bias = fit_logistic_regression(projected.double(), labels, num_speakers, c)
        self.set_fitted(weight=weight, bias=bias)

    def forward(self, projected: Tensor) -> Tensor:
        """Return logits (N, S) of what `project` returned, (N, P)."""
        return F.linear(projected, self.weight, self.bias)


def fit_logistic_regression(vectors: Tensor, labels: np.ndarray, num_speakers: int, c: float) -> tuple[Tensor, Tensor]:
    """Return weight (S, P) and bias (S,), float64, of multinomial logistic regression on vectors (N, P), float64.

    They minimise |weight|^2 / 2 + c * the sum of cross-entropies; the bias is not penalised. By L-BFGS from zero.
    """
    from scipy.optimize import minimize

    targets = torch.from_numpy(np.asarray(labels, np.int64))
    size, num_rows = vectors.shape[1], len(vectors)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.from_numpy(flat).view(num_speakers, size + 1)
        weight, bias = parameters[:, :size], parameters[:, size]
        gradient = torch.zeros_like(parameters)
        loss = 0.0
        for rows, wanted in zip(vectors.split(BLOCK_ROWS), targets.split(BLOCK_ROWS)):
            log_posteriors = F.linear(rows, weight, bias).log_softmax(1)
            loss -= float(log_posteriors.gather(1, wanted[:, None]).sum())
            errors = log_posteriors.exp_()
            errors[torch.arange(len(wanted)), wanted] -= 1
            gradient[:, :size] += errors.T @ rows
            gradient[:, size] += errors.sum(0)
        gradient[:, :size] += weight / c
        loss += float(weight.square().sum()) / (2 * c)
        return loss / num_rows, (gradient / num_rows).view(-1).numpy()

    found = minimize(objective, np.zeros(num_speakers * (size + 1)), jac=True, method="L-BFGS-B",
                     options={"maxiter": MAX_ITERATIONS, "maxfun": 2 * MAX_ITERATIONS, "gtol": TOLERANCE, "ftol": 0.0})
    parameters = torch.from_numpy(found.x).view(num_speakers, size + 1)
    return parameters[:, :size], parameters[:, size]
