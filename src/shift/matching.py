"""Degraded copies of training utterances, matched to an unlabelled test part: how much of it sounds like which copies.

Goes in: the store of training and test utterances, and the store of their degraded copies as `conditions` makes it.
Comes out: a Match. From what utterances sound like alone: no label of a test utterance and no model of speakers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from src.shift.adversarial import NUM_REPEATS, Separation, cross_fitted_auc, nearest_speakers, sample
from src.shift.statistics import utterance_statistics
from src.shift.trees import one_thread, trees
from src.store.store import Store

CLEAN = "clean"
MAX_SOURCES = 1000  # training utterances whose copies are looked at
NUM_ROUNDS, LEARNING_RATE = 40, 0.1  # of trees whose probabilities are to be true, not only in the right order
PRIOR_COUNT = 1.0  # test utterances that the expected mixture weighs as much as
NUM_DRAWS = 100  # of the test part with replacement
MAX_PASSES, MAX_PASSES_DRAW, TOLERANCE = 500, 50, 1e-5


@dataclass(frozen=True, eq=False)
class Match:
    """Which mixture of conditions the test part sounds like.

    conditions: their names, "clean" first, which is "as recorded". shares: (K,) of the test part. share_draws: (B, K)
    the same for test parts drawn anew. separation: how well copies in these shares are still told from the test part.
    """

    conditions: tuple[str, ...]
    shares: np.ndarray
    share_draws: np.ndarray
    separation: Separation

    @property
    def is_close(self) -> bool:
        """Return whether the copies in these shares cannot be told from the test part."""
        return not self.separation.is_significant

    def __str__(self) -> str:
        found = ", ".join(f"{name} {share:.2f}" for name, share in zip(self.conditions, self.shares) if share >= 0.005)
        said = "are not told from it" if self.is_close else "are still told from it"
        return f"the test part sounds like {found}; copies in these shares {said} ({self.separation})"


def match_stores(clean: Store, degraded: Store, reference: Separation,
                 mixture: Mapping[str, float] | None = None) -> Match:
    """Return the match of a test part, from at most 1,000 training and 2,000 test utterances.

    degraded: copies called <condition>/<utt_id>, every training utterance in every condition. reference: the verdict's
    separation, whose random halves the matched copies are held against. mixture: expected shares of the conditions,
    which decide what the test part leaves open; even by default.
    """
    conditions = (CLEAN, *dict.fromkeys(utt_id.partition("/")[0] for utt_id in degraded.utt_ids))
    row_of = {utt_id: row for row, utt_id in enumerate(degraded.utt_ids)}
    sources = sample(clean.train_rows, MAX_SOURCES)
    rows = [[row_of[f"{condition}/{clean.utt_ids[row]}"] for row in sources] for condition in conditions[1:]]
    with one_thread():
        copies = np.stack([utterance_statistics(clean, sources),
                           *(utterance_statistics(degraded, np.array(those)) for those in rows)])
        test = utterance_statistics(clean, sample(clean.test_rows))
    expected = np.array([mixture[name] for name in conditions]) if mixture else None
    return match(copies, clean.labels[sources], test, conditions, reference, expected)


def match(copies: np.ndarray, speakers: np.ndarray, test: np.ndarray, conditions: Sequence[str], reference: Separation,
          mixture: np.ndarray | None = None) -> Match:
    """Return the match of test statistics (M, F) and of copies (K, S, F) of S utterances of `speakers` (S,)."""
    num_conditions, num_sources, _ = copies.shape
    mixture = np.full(num_conditions, 1 / num_conditions) if mixture is None else mixture / mixture.sum()
    rng = np.random.default_rng(0)
    with one_thread():
        condition = np.repeat(np.arange(num_conditions), num_sources)
        model = trees(NUM_ROUNDS, LEARNING_RATE).fit(copies.reshape(len(condition), -1), condition)
        posteriors = model.predict_proba(test)
        shares = mixture_shares(posteriors, mixture, start=mixture)
        draws = [posteriors[rng.integers(len(test), size=len(test))] for _ in range(NUM_DRAWS)]
        share_draws = np.stack([mixture_shares(draw, mixture, shares, MAX_PASSES_DRAW) for draw in draws])
        matched = copies[rng.choice(num_conditions, num_sources, p=shares), np.arange(num_sources)]
        nearest = nearest_speakers(matched, speakers, test)
        aucs = [cross_fitted_auc(matched, test, speakers, nearest, seed) for seed in range(NUM_REPEATS)]
    separation = replace(reference, auc=float(np.mean(aucs)), num_first=num_sources, num_second=len(test))
    return Match(tuple(conditions), shares, share_draws, separation)


def mixture_shares(posteriors: np.ndarray, mixture: np.ndarray, start: np.ndarray,
                   max_passes: int = MAX_PASSES) -> np.ndarray:
    """Return the shares (K,) of conditions that make posteriors (M, K) of equal priors the likeliest.

    By expectation and maximisation (Saerens, Latinne & Decaestecker, 2002), with a Dirichlet prior of one utterance
    spread as `mixture` (K,). start: shares to begin with.
    """
    shares = start
    for _ in range(max_passes):
        weighted = posteriors * shares
        weighted /= weighted.sum(1, keepdims=True)
        found = (weighted.sum(0) + PRIOR_COUNT * mixture) / (len(posteriors) + PRIOR_COUNT)
        is_found = np.abs(found - shares).max() < TOLERANCE
        shares = found
        if is_found:
            break
    return shares
