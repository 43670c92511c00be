"""Figures of predictions against formulas written out by hand, and against what they must not depend on."""

import itertools

import numpy as np
import pytest

from src.apps.report import metrics


def test_class_figures_are_those_of_the_definition_and_unheard_classes_are_left_out():
    labels = np.array([0, 0, 0, 1, 1, 3])
    predicted = np.array([0, 0, 1, 1, 0, 2])
    found = metrics.class_figures(labels, predicted, 5)
    nan = np.nan
    np.testing.assert_allclose(found.precision, [2 / 3, 1 / 2, nan, 0, nan])
    np.testing.assert_allclose(found.recall, [2 / 3, 1 / 2, nan, 0, nan])
    np.testing.assert_allclose(found.f1, [2 / 3, 1 / 2, nan, 0, nan])
    assert found.support.tolist() == [3, 2, 0, 1, 0]
    np.testing.assert_allclose(found.mean(weighted=False), [7 / 18] * 3)
    np.testing.assert_allclose(found.mean(weighted=True), [3 / 6] * 3)
    assert found.worst_first().tolist()[:3] == [3, 1, 0]
    assert set(found.worst_first().tolist()[3:]) == {2, 4}


@pytest.mark.parametrize(("right", "total"), [(0, 7), (7, 7), (265, 400), (1, 1)])
def test_interval_is_wilsons(right, total):
    z, share = 1.959963984540054, right / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    np.testing.assert_allclose(metrics.interval(right, total), (middle - half, middle + half), atol=1e-12)


def test_interval_of_nothing_says_nothing():
    assert metrics.interval(0, 0) == (0, 1)


def test_pairs_join_both_directions_and_the_most_confused_comes_first():
    labels = np.array([0, 1, 1, 1, 2, 2, 2, 2, 3, 3])
    predicted = np.array([1, 0, 0, 1, 3, 3, 3, 3, 3, 0])
    assert metrics.confused_pairs(labels, predicted) == [(2, 3, 4, 0), (1, 0, 2, 1), (3, 0, 1, 0)]
    assert metrics.confused_pairs(labels, labels) == []
    assert metrics.confused_pairs(np.array([4, 5]), np.array([5, 4])) == [(4, 5, 1, 1)]  # once, not twice or never


def test_order_puts_the_confused_side_by_side_and_leaves_out_the_others():
    rng = np.random.default_rng(0)
    names = rng.permutation(200)
    labels = np.concatenate([names, names[:20]])
    predicted = np.concatenate([names, names[np.arange(20) ^ 1]])  # the first with the second, the third with …
    order = metrics.confusion_order(labels, predicted, 200).tolist()
    assert sorted(order) == sorted(names[:20].tolist())
    assert all(abs(order.index(names[i]) - order.index(names[i ^ 1])) == 1 for i in range(20))
    assert len(metrics.confusion_order(labels, labels, 200)) == 0


def test_picture_is_the_matrix_and_a_small_one_merges_neighbours():
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 12, 300), rng.integers(0, 12, 300)
    labels[labels == 5] = 4
    order = rng.permutation(12)
    counts = np.array([[((labels == a) & (predicted == b)).sum() for b in order] for a in order])
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(metrics.confusion_picture(labels, predicted, order, 12),
                                   counts / counts.sum(1, keepdims=True))
    merged = counts.reshape(4, 3, 4, 3).sum((1, 3))
    np.testing.assert_allclose(metrics.confusion_picture(labels, predicted, order, 4),
                               merged / merged.sum(1, keepdims=True))
    part = metrics.confusion_picture(labels, predicted, order[:4], 12)
    inner = counts[:4, :4][counts[:4, :4].sum(1) > 0]
    np.testing.assert_allclose(part[~np.isnan(part[:, 0])], inner / inner.sum(1, keepdims=True))


def test_confidence_is_the_largest_posterior_whatever_the_block_and_the_size(monkeypatch):
    logits = np.random.default_rng(2).normal(0, 3, (50, 7)).astype(np.float32)
    logits[0] *= 1e4
    expected = np.exp(logits[1:].astype(float) / 1.7)
    expected = (expected / expected.sum(1, keepdims=True)).max(1)
    monkeypatch.setattr(metrics, "BLOCK", 8)
    found = metrics.confidence(logits, 1.7)
    np.testing.assert_allclose(found[1:], expected, rtol=1e-9)
    assert found[0] == 1


def test_calibration_error_is_the_mean_gap_by_bins():
    rng = np.random.default_rng(3)
    confidences, is_right = rng.uniform(0.2, 1, 500), rng.random(500) < 0.6
    confidences[:3] = 1.0, 0.5, 0.2
    expected, counts = 0.0, []
    for k in range(10):
        inside = (confidences > k / 10) & (confidences <= (k + 1) / 10)
        counts.append(int(inside.sum()))
        if inside.any():
            expected += inside.sum() / 500 * abs(is_right[inside].mean() - confidences[inside].mean())
    found = metrics.reliability(confidences, is_right, num_bins=10)
    assert found.ece == pytest.approx(expected)
    assert found.count.tolist() == counts
    assert np.isnan(found.accuracy[0])


def drawn(num_utterances=3000, num_classes=6, too_sure=2.5, seed=4):
    """Return logits that are `too_sure` times too large, and labels drawn from the true posteriors."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (num_utterances, num_classes))
    posterior = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random((num_utterances, 1)) > posterior.cumsum(1)).sum(1)
    return (too_sure * logits).astype(np.float32), labels


@pytest.mark.parametrize("too_sure", [0.5, 2.5])
def test_temperature_undoes_what_made_the_logits_too_sure(too_sure):
    logits, labels = drawn(too_sure=too_sure)
    is_right = logits.argmax(1) == labels
    before = metrics.reliability(metrics.confidence(logits), is_right).ece
    scaled, temperature = metrics.scaled_confidence(logits, labels)
    assert temperature == pytest.approx(too_sure, rel=0.08)
    assert metrics.reliability(scaled, is_right).ece < 0.05 < before


def test_no_utterance_is_scaled_by_a_fit_on_its_own_label():
    logits, labels = drawn(400)
    before, _ = metrics.scaled_confidence(logits, labels)
    for at in (0, 7, 200):
        other = labels.copy()
        other[at] = (labels[at] + 1) % 6
        after, _ = metrics.scaled_confidence(logits, other)
        changed = after != before
        assert not changed[at]
        assert changed.any()


@pytest.mark.parametrize("num_utterances", [1, 2, 3])
def test_calibration_of_a_handful_is_defined(num_utterances):
    logits, labels = drawn(num_utterances)
    scaled, temperature = metrics.scaled_confidence(logits, labels)
    assert np.isfinite(scaled).all()
    assert 0.04 < temperature < 21


def test_length_bins_hold_every_utterance_once_and_never_split_equal_lengths():
    lengths = np.random.default_rng(5).integers(1, 30, 333)
    bins = metrics.length_bins(lengths)
    assert len(bins) == 8
    assert sorted(np.concatenate(bins).tolist()) == list(range(333))
    assert all(lengths[a].max() < lengths[b].min() for a, b in itertools.pairwise(bins))
    assert max(map(len, bins)) < 2.5 * 333 / 8
    assert [len(part) for part in metrics.length_bins(np.arange(25))] == [13, 12]  # at least ten each
    assert [len(part) for part in metrics.length_bins(np.full(100, 7))] == [100]
    assert [len(part) for part in metrics.length_bins(np.array([1] * 19 + [2]))] == [20]
    assert [len(part) for part in metrics.length_bins(np.array([1] + [2] * 30))] == [31]
