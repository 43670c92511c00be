"""A mixture of Gaussians with diagonal covariances: the universal background model of an utterance's frames."""

import math

import torch
from torch import Generator, Tensor

from src.model.classical.fitted import Fitted

MIN_VARIANCE = 0.01  # of a Gaussian, as a share of the variance of all frames
MIN_FRAMES = 1e-3  # occupation of a Gaussian, so that an empty one stays finite
NUM_ITERATIONS = 20
BLOCK_FRAMES = 4096


class GaussianMixture(Fitted):
    """K Gaussians over frames that are first brought to zero mean and unit variance.

    centre, spread: (C,) mean and standard deviation of the frames it was fitted to. weights: (K,). means, variances:
    (K, C), of the normalised frames.
    """

    fitted = ("centre", "spread", "weights", "means", "variances")

    def fit(self, frames: Tensor, num_gaussians: int, generator: Generator) -> list[float]:
        """Fit to frames (N, C) by expectation-maximisation; return the mean log-likelihood before each iteration.

        Starts from random frames as means and the variance of all frames. Worked out in float64. num_gaussians: at most
        N. Dempster, Laird & Rubin (1977).
        """
        frames = frames.double()
        centre = frames.mean(0)
        spread = frames.std(0, correction=0).clamp_min(1e-6)
        frames = (frames - centre) / spread
        means = frames[torch.randperm(len(frames), generator=generator)[:num_gaussians]]
        variances = torch.ones_like(means)
        weights = torch.full((num_gaussians,), 1 / num_gaussians, dtype=torch.float64)
        log_likelihoods = []
        for _ in range(NUM_ITERATIONS):
            occupation, first, second, log_likelihood = _expect(frames, weights, means, variances)
            log_likelihoods.append(log_likelihood)
            occupation = occupation.clamp_min(MIN_FRAMES)
            weights = occupation / occupation.sum()
            means = first / occupation[:, None]
            variances = (second / occupation[:, None] - means.square()).clamp_min(MIN_VARIANCE)
        self.set_fitted(centre=centre, spread=spread, weights=weights, means=means, variances=variances)
        return log_likelihoods

    def normalise(self, frames: Tensor) -> Tensor:
        """Return frames (T, C) in the units of means and variances."""
        return (frames - self.centre) / self.spread

    def statistics(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return each Gaussian's occupation (K,) by the frames (T, C), and their posterior-weighted sum (K, C).

        The sum is of normalised frames.
        """
        frames = self.normalise(frames)
        posteriors = log_joint(frames, self.weights, self.means, self.variances).softmax(1)
        return posteriors.sum(0), posteriors.T @ frames


def log_joint(frames: Tensor, weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """Return log(weight times density) of every frame under every Gaussian, (N, K)."""
    constant = means.square().div(variances).sum(1) + variances.log().sum(1) + means.shape[1] * math.log(2 * math.pi)
    return frames @ (means / variances).T - 0.5 * (frames.square() @ (1 / variances).T + constant) + weights.log()


def _expect(frames: Tensor, weights: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return occupation (K,), posterior-weighted sums of frames and of their squares (K, C), mean log-likelihood."""
    occupation, first, second = torch.zeros_like(weights), torch.zeros_like(means), torch.zeros_like(means)
    total = 0.0
    for block in frames.split(BLOCK_FRAMES):
        joint = log_joint(block, weights, means, variances)
        evidence = joint.logsumexp(1, keepdim=True)
        posteriors = (joint - evidence).exp()
        occupation += posteriors.sum(0)
        first += posteriors.T @ block
        second += posteriors.T @ block.square()
        total += float(evidence.sum())
    return occupation, first, second, total / len(frames)
