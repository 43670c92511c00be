"""Temperatures and thresholds against known truths, explicit loops and hand counts; how files become windows."""

import itertools

import numpy as np
import pytest

from src.apps.predict.timeline import LONG_S, Segment, cut, join
from src.runs.calibration import average_folds, energy, equal_error, error_rates, fit_temperature


def softmax(scores):
    exponent = np.exp(scores - scores.max(-1, keepdims=True))
    return exponent / exponent.sum(-1, keepdims=True)


def drawn_from(scores, seed=0):
    """Return labels (N,) drawn with the very probabilities softmax(scores)."""
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(scores.shape[1], p=row) for row in softmax(scores)])


@pytest.mark.parametrize("truth", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_a_scaling_of_calibrated_scores(truth):
    honest = 1.5 * np.random.default_rng(1).normal(size=(4000, 6))
    assert fit_temperature(honest * truth, drawn_from(honest)) == pytest.approx(truth, rel=0.06)


def test_the_temperature_is_the_minimum_of_the_cross_entropy():
    scores = np.random.default_rng(2).normal(size=(200, 5)) * 4
    labels = drawn_from(scores / 3)
    best = fit_temperature(scores, labels)

    def loss(temperature):
        return -np.log(softmax(scores / temperature)[np.arange(200), labels]).mean()

    assert all(loss(best) <= loss(best * factor) for factor in (0.98, 1.02))


def test_a_model_that_is_always_right_or_says_nothing_gets_a_finite_temperature():
    labels = np.arange(30) % 3
    right = np.full((30, 3), -5.0)
    right[np.arange(30), labels] = 5.0
    assert fit_temperature(right, labels) == pytest.approx(1, abs=1e-4), "no utterance tells how sure it may be"
    assert fit_temperature(right / 100, np.roll(labels, 1)) > 1
    right[0] = -right[0]
    assert 0.05 < fit_temperature(right / 100, labels) < 0.1
    assert 0.05 <= fit_temperature(np.zeros((30, 3)), labels) <= 20


def test_folds_are_averaged_as_log_posteriors_and_then_tempered():
    folds = np.random.default_rng(3).normal(size=(3, 4, 5)) * 3
    product = softmax(folds).prod(0) ** (1 / 3 / 0.7)
    np.testing.assert_allclose(np.exp(average_folds(folds, 0.7)), product / product.sum(1, keepdims=True), rtol=1e-9)
    shifted = average_folds(folds + np.array([100.0, -50.0, 0.0])[:, None, None], 0.7)
    np.testing.assert_allclose(shifted, average_folds(folds, 0.7), atol=1e-9)


def test_energy_is_the_log_of_the_sum_of_exponentials_even_of_large_logits():
    logits = np.random.default_rng(4).normal(size=(2, 3, 5)).astype(np.float32)
    np.testing.assert_allclose(energy(logits), np.log(np.exp(logits.astype(float)).sum(-1)), rtol=1e-6)
    np.testing.assert_allclose(energy(logits + 5000), energy(logits) + 5000, rtol=1e-6)


def test_error_rates_are_counts_of_who_lies_on_the_wrong_side():
    found = error_rates(np.array([0.2, 0.6, 0.8, 0.9]), np.array([0.1, 0.3, 0.6, 0.7, 0.2]), 0.6)
    assert (found.known_refused, found.unknown_accepted) == (0.25, 0.4)  # at the threshold counts as known


@pytest.mark.parametrize("seed", range(4))
def test_the_equal_error_is_the_nearest_of_all_thresholds(seed):
    rng = np.random.default_rng(seed)
    known, unknown = rng.normal(1, 1, 37).round(1), rng.normal(0, 1, 23).round(1)
    best = equal_error(known, unknown)
    gaps = [abs((known < value).mean() - (unknown >= value).mean())
            for value in np.linspace(-5, 5, 2001) + 1e-4]
    assert abs(best.known_refused - best.unknown_accepted) == pytest.approx(min(gaps))
    assert best == error_rates(known, unknown, best.value)


def test_scores_that_do_not_overlap_are_parted_in_the_middle_without_an_error():
    best = equal_error(np.array([0.8, 0.9]), np.array([0.1, 0.4]))
    assert (best.value, best.equal_error_rate) == (pytest.approx(0.6), 0.0)


@pytest.mark.parametrize("seconds", [0.4, 19.9, 20.0, 20.1, 21.0, 22.4, 22.6, 61.7, 3600.0])
def test_windows_cover_a_recording_once_and_none_is_short(seconds):
    windows = cut(int(seconds * 100), 100.0)
    assert windows[0][0] == 0
    assert windows[-1][1] == int(seconds * 100)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(windows))
    if seconds <= LONG_S:
        assert len(windows) == 1
    else:
        sizes = [stop - start for start, stop in windows]
        assert set(sizes[:-1]) == {300}
        assert 150 < sizes[-1] <= 450


def test_what_has_no_known_rate_is_never_cut():
    assert cut(10**6, 0.0) == [(0, 10**6)]


def test_neighbours_of_the_same_speaker_are_one_segment_weighted_by_time():
    parts = [Segment(0, 3, "a", 0.9), Segment(3, 6, "a", 0.5), Segment(6, 9, None, 0.2), Segment(9, 13, None, 0.3),
             Segment(13, 16, "a", 0.7)]
    joined = join(parts)
    assert [(s.start_s, s.end_s, s.speaker) for s in joined] == [(0, 6, "a"), (6, 13, None), (13, 16, "a")]
    assert [s.probability for s in joined] == pytest.approx([0.7, (3 * 0.2 + 4 * 0.3) / 7, 0.7])
