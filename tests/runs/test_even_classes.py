"""Class counts of the test part: told apart from chance, matched where they are even, left alone where they are not."""

import numpy as np
import pytest
from scipy.optimize import minimize

from src.ensemble import blend
from src.runs import even_classes as prior
from src.runs.logits import log_softmax, read_logits
from tests.support.runs import CLASSES, two_folds, write_run


def guessed(labels, num_classes, skill, seed, bias=0.0):
    """Scores of a model that is right about labels with some skill and leans to some classes."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(len(labels), num_classes)) + bias * rng.normal(size=num_classes)
    scores[np.arange(len(labels)), labels] += skill
    return scores


def test_an_even_deal_is_told_from_chance_and_from_a_leaning_model():
    even = np.repeat(np.arange(50), 12)
    assert prior.estimate(guessed(even, 50, 4.0, 0)).is_even
    assert not prior.estimate(guessed(even, 50, 1.0, 0, bias=2.0)).is_even, "too many errors to tell"
    by_chance = [prior.estimate(np.eye(50)[np.random.default_rng(s).integers(50, size=600)]) for s in range(300)]
    assert sum(p.is_even for p in by_chance) <= 3
    assert np.mean([p.dispersion for p in by_chance]) == pytest.approx(1.0, abs=0.05)
    uneven = np.repeat(np.arange(9), [31, 35, 88, 44, 29, 24, 40, 50, 29])  # Japanese Vowels' own
    assert not prior.estimate(np.eye(9)[uneven]).is_even
    for shape in ((0, 5), (7, 1)):
        assert not prior.estimate(np.zeros(shape)).is_even


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize("num_classes", [100, 500])
def test_a_random_part_of_an_even_corpus_is_not_taken_for_even(num_classes, share):
    """Its counts are hypergeometric: less scattered than chance, yet they differ, and matching would spoil answers."""
    corpus = np.repeat(np.arange(num_classes), 10)
    size = round(len(corpus) * share)
    told = [prior.estimate(np.eye(num_classes)[np.random.default_rng(s).permutation(corpus)[:size]]) for s in range(40)]
    assert np.mean([t.dispersion for t in told]) == pytest.approx(1 - share, abs=0.03)
    assert sum(t.is_even for t in told) <= 4
    assert not prior.estimate(np.eye(num_classes)[corpus[:-30]]).is_even, "not to be dealt out evenly"


def test_matching_is_the_smallest_change_with_equal_shares():
    """The dual of the constrained problem, by a general solver: one bias a class."""
    scores = guessed(np.repeat(np.arange(6), 7), 6, 1.0, 1, bias=1.0)
    matched = np.exp(prior.match_even(scores))
    np.testing.assert_allclose(matched.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(matched.mean(0), 1 / 6, rtol=2e-3)

    def dual(bias):
        return np.logaddexp.reduce(log_softmax(scores) + bias, 1).mean() - bias.mean()

    bias = minimize(dual, np.zeros(6)).x
    np.testing.assert_allclose(matched, np.exp(log_softmax(scores + bias)), atol=2e-3)
    leaning = scores + np.random.default_rng(2).normal(size=6) * 3
    np.testing.assert_allclose(np.exp(prior.match_even(leaning)), matched, atol=2e-3)


def test_matching_helps_a_model_that_leans():
    labels = np.repeat(np.arange(40), 12)
    scores = guessed(labels, 40, 3.0, 3, bias=1.0)
    before, after = (s.argmax(1) for s in (scores, prior.match_even(scores)))
    assert (after == labels).mean() > (before == labels).mean() + 0.03


def test_a_blend_matches_its_test_answers_only_and_only_where_the_classes_are_even(tmp_path):
    labels = np.random.default_rng(0).integers(CLASSES, size=400)
    folds, _ = two_folds(labels, 2.0, 1)
    even = guessed(np.repeat(np.arange(CLASSES), 100), CLASSES, 6.0, 1)
    uneven = guessed(np.repeat(np.arange(CLASSES), [10, 60, 130, 200]), CLASSES, 6.0, 2)
    for name, test, classes, is_matched in (("even", even, "auto", True), ("even_any", even, "any", False),
                                            ("uneven", uneven, "auto", False), ("told", uneven, "even", True)):
        out = blend([write_run(tmp_path / name, "x", folds, [test, test])], labels, classes)
        posteriors = np.exp(read_logits(out.test_path)[1])
        plain = np.exp(log_softmax(np.float32(test)))
        assert (out.result["test_classes"]["num_changed"] is not None) == is_matched
        assert np.allclose(posteriors.mean(0), 0.25, rtol=2e-3) == is_matched
        assert np.allclose(posteriors, plain, atol=1e-5) != is_matched
        with np.load(out.pseudo_labels_path) as content:
            np.testing.assert_array_equal(content["labels"][-1], posteriors.argmax(1))
        with np.load(out.valid_path) as content:
            np.testing.assert_allclose(np.sort(content["rows"]), np.arange(400))
            held_out = np.concatenate([logits[np.argsort(rows)] for rows, logits in folds][::-1])
            order = np.argsort(np.concatenate([np.arange(0, 400, 2), np.arange(1, 400, 2)]))
            np.testing.assert_allclose(np.exp(content["logits"]), np.exp(log_softmax(held_out[order])), atol=1e-5)


@pytest.mark.parametrize(("num_classes", "num_rows"), [(2, 10), (3, 9), (4, 8), (5, 10)])
def test_few_classes_are_not_taken_for_even_by_chance(num_classes, num_rows):
    told = [prior.estimate(np.eye(num_classes)[np.random.default_rng(s).integers(num_classes, size=num_rows)])
            for s in range(100)]
    assert sum(t.is_even for t in told) <= 1
    assert prior.estimate(np.eye(5)[np.repeat(np.arange(5), 200)]).is_even
