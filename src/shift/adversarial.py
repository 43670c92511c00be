"""Adversarial validation: can a classifier tell the test utterances of a store from its training utterances?

Goes in: a store, or statistics of utterances as arrays; never a test label. Comes out: a Verdict, which says in one
line whether clean held-out utterances decide or degraded copies of them.

    verdict = examine(store)
    print(verdict)  # train and test are told apart (AUC 0.72; random halves of train 0.50 ± 0.02): …
    verdict.name    # "clean" or "shifted"

Gradient-boosted trees are fitted to four fifths of the speakers and judged on the fifth that they never heard. With
folds of utterances, a held-out training utterance has one training utterance of its speaker fewer to resemble, so that
trees take it for a test utterance: a fair cut of four and four utterances of a speaker gives an AUC of 0.42. Speakers
with uneven shares, and copies of one recording, would lead the other way. A test utterance counts as the speaker whom
it resembles most, however often that is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from src.shift.statistics import utterance_statistics
from src.shift.trees import one_thread, trees
from src.store.store import Store

MAX_UTTERANCES = 2000  # drawn of each part: an AUC of as many is known to 0.01
FEWEST_TEST, FEWEST_TRAIN, FEWEST_SPEAKERS = 100, 20, 2
NUM_FOLDS = 5
NUM_REPEATS, NUM_HALVES = 3, 10  # foldings that the AUC is a mean of; pairs of random halves
DEVIATIONS, LEAST_GAIN = 3.0, 0.05  # an AUC that is higher by less moves no decision, however sure it is
SHRINKAGE = 0.3  # of the covariance within speakers towards a sphere
CLEAN_DECIDES = "clean held-out utterances decide"


@dataclass(frozen=True)
class Separation:
    """How well two sets of utterances are told apart, and how well random halves of one set are.

    auc: area under the ROC curve of held-out speakers' utterances, 0.5 for sets alike. halves: the same of random
    halves of the training part. num_first, num_second: utterances of the two sets.
    """

    auc: float
    halves: tuple[float, ...]
    num_first: int
    num_second: int

    @property
    def halves_mean(self) -> float:
        """Return the mean AUC of the halves."""
        return float(np.mean(self.halves))

    @property
    def halves_std(self) -> float:
        """Return the standard deviation of the halves' AUC."""
        return float(np.std(self.halves, ddof=1))

    @property
    def is_significant(self) -> bool:
        """Return whether the AUC is above the halves' mean by 0.05 and by three deviations.

        A deviation is the halves' own, or that of Mann and Whitney (1947) for sets of these sizes where it is larger.
        Of ten halves, three deviations are passed by chance once in a hundred times (Student's t).
        """
        by_chance = np.sqrt((self.num_first + self.num_second + 1) / (12 * self.num_first * self.num_second))
        deviation = max(self.halves_std, float(by_chance))
        return self.auc - self.halves_mean > max(DEVIATIONS * deviation, LEAST_GAIN)

    def __str__(self) -> str:
        return f"AUC {self.auc:.2f}; random halves of train {self.halves_mean:.2f} ± {self.halves_std:.2f}"


@dataclass(frozen=True)
class Verdict:
    """Which held-out utterances to believe: as recorded ("clean"), or degraded to match the test part ("shifted").

    separation: of train and test, None where it was not measured. reason: one line in plain English, as `str` gives.
    """

    name: Literal["clean", "shifted"]
    separation: Separation | None
    reason: str

    @property
    def is_shifted(self) -> bool:
        """Return whether degraded copies decide."""
        return self.name == "shifted"

    @property
    def is_told_apart(self) -> bool:
        """Return whether train and test differ, be it that no copies can follow (cepstra)."""
        return self.separation is not None and self.separation.is_significant

    def __str__(self) -> str:
        return self.reason


def examine(store: Store) -> Verdict:
    """Return the verdict on a store from at most 2,000 utterances of each part; the same whatever the threads.

    Clean held-out utterances decide where the test part has fewer than 100 utterances or is missing, where train has
    fewer than 20 utterances or 2 speakers, and for cepstra, which cannot be degraded; the line says so.
    """
    num_train, num_test, num_speakers = len(store.train_rows), len(store.test_rows), len(store.speakers)
    if not num_test:
        return Verdict("clean", None, f"there is no test part: {CLEAN_DECIDES}")
    for count, fewest, what in ((num_test, FEWEST_TEST, "test utterances"),
                                (num_train, FEWEST_TRAIN, "training utterances"),
                                (num_speakers, FEWEST_SPEAKERS, "speakers")):
        if count < fewest:
            return Verdict("clean", None, f"{count} {what} are too few to tell train from test ({fewest} are needed): "
                                          f"{CLEAN_DECIDES}")
    train_rows, test_rows = sample(store.train_rows), sample(store.test_rows)
    with one_thread():
        train, test = utterance_statistics(store, train_rows), utterance_statistics(store, test_rows)
    separation = told_apart(train, test, store.labels[train_rows], [store.groups[row] for row in train_rows])
    return judge(separation, can_be_degraded=store.kind != "cepstra")


def judge(separation: Separation, can_be_degraded: bool = True) -> Verdict:
    """Return the verdict that follows from how well train and test are told apart."""
    if not separation.is_significant:
        return Verdict("clean", separation, f"train and test are not told apart ({separation}): {CLEAN_DECIDES}")
    if not can_be_degraded:
        return Verdict("clean", separation, f"train and test are told apart ({separation}), but cepstra cannot be "
                                            f"degraded: {CLEAN_DECIDES}, and flatter")
    return Verdict("shifted", separation, f"train and test are told apart ({separation}): the test part comes from "
                                          "other sessions, so degraded copies decide")


def told_apart(train: np.ndarray, test: np.ndarray, speakers: np.ndarray, groups: Sequence[str] = ()) -> Separation:
    """Return how well test statistics (M, F) are told from training statistics (N, F) of `speakers` (N,).

    groups: (N,) sessions, "" for none. Random halves keep a session whole, as the folds of training do, so that what
    held-out utterances differ by is not laid on the test part.
    """
    with one_thread():
        nearest = nearest_speakers(train, speakers, test)
        aucs = [cross_fitted_auc(train, test, speakers, nearest, seed) for seed in range(NUM_REPEATS)]
        halves = []
        for seed in range(NUM_HALVES):
            first = _random_half(len(train), groups, seed)
            halves.append(cross_fitted_auc(train[first], train[~first], speakers[first], speakers[~first], seed))
    return Separation(float(np.mean(aucs)), tuple(halves), len(train), len(test))


def cross_fitted_auc(first: np.ndarray, second: np.ndarray, first_speakers: np.ndarray, second_speakers: np.ndarray,
                     seed: int) -> float:
    """Return the AUC with which trees tell `second` (M, F) from `first` (N, F), each speaker heard by others' trees.

    first_speakers (N,) and second_speakers (M,): classes that are held out whole. The AUC is the mean over five folds,
    weighted by their pairs, for scores of different trees do not compare; 0.5 where no fold has both sets.
    """
    from sklearn.metrics import roc_auc_score

    inputs, is_second = np.concatenate([first, second]), np.repeat([False, True], [len(first), len(second)])
    distinct, speaker = np.unique(np.concatenate([first_speakers, second_speakers]), return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(distinct)) % NUM_FOLDS)[speaker]
    total, num_pairs = 0.0, 0
    for k in range(NUM_FOLDS):
        held_out = fold == k
        pairs = int(is_second[held_out].sum()) * int((~is_second[held_out]).sum())
        if not pairs or len(np.unique(is_second[~held_out])) < 2:
            continue
        model = trees().fit(inputs[~held_out], is_second[~held_out])
        total += pairs * roc_auc_score(is_second[held_out], model.predict_proba(inputs[held_out])[:, 1])
        num_pairs += pairs
    return float(total / num_pairs) if num_pairs else 0.5


def nearest_speakers(train: np.ndarray, speakers: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the speaker (M,) whose mean each of `test` (M, F) is nearest to, after whitening within speakers.

    Each part is standardised by its own mean and deviation first, so that a microphone that all test utterances share
    does not send them to the same few speakers.
    """
    train, test = _standardised(train), _standardised(test)
    distinct, speaker = np.unique(speakers, return_inverse=True)
    means = np.zeros((len(distinct), train.shape[1]))
    np.add.at(means, speaker, train)
    means /= np.bincount(speaker)[:, None]
    residual = train - means[speaker]
    covariance = residual.T @ residual / max(1, len(train) - len(distinct))
    sphere = np.trace(covariance) / len(covariance) + 1e-6
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * sphere * np.eye(len(covariance))
    whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T
    means, test = means @ whitening, test @ whitening
    return distinct[(np.square(means).sum(1) - 2 * test @ means.T).argmin(1)]


def sample(rows: np.ndarray, most: int = MAX_UTTERANCES) -> np.ndarray:
    """Return `rows`, or `most` of them drawn without replacement, the same at every call, in ascending order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def _standardised(statistics: np.ndarray) -> np.ndarray:
    statistics = statistics.astype(np.float64)
    return (statistics - statistics.mean(0)) / (statistics.std(0) + 1e-6)


def _random_half(num_utterances: int, groups: Sequence[str], seed: int) -> np.ndarray:
    """Return bool (N,), True for a random half of the utterances, or of the sessions, of which none is split."""
    named = [group or f"\0{i}" for i, group in enumerate(groups)] if len(groups) else range(num_utterances)
    distinct, unit = np.unique(np.array(named), return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(distinct)) % 2 == 0)[unit]
