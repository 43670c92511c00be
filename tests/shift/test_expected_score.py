"""The score to expect: shares of conditions, which validation decides, and whether intervals hold the truth."""

import numpy as np
import pytest

from src.runs.calibration import fit_temperature
from src.runs.logits import log_softmax
from src.shift import matching
from src.shift.adversarial import Separation, Verdict
from src.shift.expected_score import (
    effective_count,
    expected_score,
    fold_gain,
    prediction_interval,
    thresholded_confidence,
)
from src.shift.matching import Match, match, mixture_shares
from src.shift.validation import deciding_validation

HALVES = (0.48, 0.5, 0.52)
ALIKE, APART = Separation(0.5, HALVES, 1000, 1000), Separation(0.7, HALVES, 1000, 1000)
CLEAN, SHIFTED = Verdict("clean", ALIKE, "alike"), Verdict("shifted", APART, "apart")
NAMES = ("clean", "noise", "line")


def answers(rng, rates, num_classes=8):
    """Return logits (N, C) that are right at `rates` (N,), and surer where those are higher; label 0 is the truth."""
    wrong = rng.random(len(rates)) > rates
    logits = rng.standard_normal((len(rates), num_classes)) * 0.1
    logits[np.arange(len(rates)), np.where(wrong, rng.integers(1, num_classes, len(rates)), 0)] += 1 + 4 * rates
    return logits


def is_held(rng, num_held_out, num_test, rates, shares, verdict):
    """Return whether the interval holds the true score where conditions are known to be told apart without error.

    rates: (K,) at which an utterance of middling ease is right.
    """
    def logits(conditions, ease):
        return answers(rng, (rates[conditions] + ease).clip(0, 1))

    ease = rng.uniform(-0.1, 0.1, num_held_out)
    held_out = {name: logits(np.full(num_held_out, k), ease) for k, name in enumerate(NAMES[: len(rates)])}
    conditions = rng.choice(len(rates), num_test, p=shares)
    test = logits(conditions, rng.uniform(-0.1, 0.1, num_test))
    found = None
    if verdict is SHIFTED:
        known, even = np.eye(len(rates)), np.full(len(rates), 1 / len(rates))
        draws = [rng.choice(conditions, num_test) for _ in range(30)]
        estimates = [mixture_shares(known[drawn], even, even) for drawn in (conditions, *draws)]
        found = Match(NAMES, estimates[0], np.array(estimates[1:]), ALIKE)
    expected = expected_score(deciding_validation(verdict, found), held_out, np.zeros(num_held_out, int), num_test)
    return expected.low <= (test.argmax(1) == 0).mean() <= expected.high


@pytest.mark.parametrize(("num_held_out", "num_test", "rates", "shares", "verdict"), [
    (200, 300, [0.9], [1], CLEAN),
    (60, 1000, [0.95], [1], CLEAN),
    (1000, 100, [0.6], [1], CLEAN),
    (300, 300, [0.9, 0.6, 0.3], [0.4, 0.4, 0.2], SHIFTED),
], ids=str)
def test_the_interval_holds_the_truth_as_often_as_it_says(num_held_out, num_test, rates, shares, verdict):
    rng = np.random.default_rng(0)
    held = [is_held(rng, num_held_out, num_test, np.array(rates), shares, verdict) for _ in range(500)]
    assert 0.93 <= np.mean(held) <= 0.99


def test_an_interval_by_hand():
    low, high = prediction_interval(0.9, 100, 100)  # Wilson's of 45 in 50
    assert (low, high) == pytest.approx((0.7864, 0.9565), abs=1e-4)
    assert prediction_interval(1.0, 50, 300)[1] == pytest.approx(1)
    wider = prediction_interval(0.9, 100, 100, variance=0.03**2)
    assert wider[0] < low < high < wider[1]


def test_utterances_of_a_session_count_as_fewer():
    scores = np.repeat([1.0, 1.0, 0.0, 1.0] * 10, 5)
    assert effective_count(scores) == pytest.approx(200)
    assert effective_count(scores, [f"s{i // 5}" for i in range(200)]) == pytest.approx(40)
    assert effective_count(np.ones(200), [f"s{i // 5}" for i in range(200)]) == 40
    assert effective_count(np.ones(7), [""] * 7) == 7


# What the folds add, and confidence -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "common"), [(0.8, 1.0), (0.5, 1.5), (0.3, 1.0)])
def test_the_gain_of_averaging_the_folds_is_about_what_it_turns_out_to_be(own, common):
    """Five folds' models that err each on their own and all together."""
    rng, num_rows = np.random.default_rng(0), 4000
    truth = np.zeros(num_rows, int)
    shared = rng.standard_normal((num_rows, 10)) * common
    shared[:, 0] += 2
    folds = [shared + rng.standard_normal(shared.shape) * own for _ in range(5)]
    held_out = shared + rng.standard_normal(shared.shape) * own
    single = np.mean([(fold.argmax(1) == truth).mean() for fold in folds])
    average = (np.mean([log_softmax(fold) for fold in folds], 0).argmax(1) == truth).mean()
    gain = fold_gain(folds, fit_temperature(held_out, truth))
    assert gain == pytest.approx(average - single, rel=0.4, abs=0.01)
    assert fold_gain([folds[0]] * 3, 1.0) == 0


def test_confidence_says_the_accuracy_back_and_falls_with_it():
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.3, 1, (2, 2000))
    copies = [answers(rng, rates[0]), answers(rng, rates[1] - 0.3)]
    is_right = np.stack([scores.argmax(1) == 0 for scores in copies])
    for shares in ([1, 0], [0, 1], [0.5, 0.5]):
        matched = np.array(shares) @ is_right.mean(1)
        test = np.concatenate([scores[: int(2000 * share)] for scores, share in zip(copies, shares)])
        found = thresholded_confidence(copies, is_right, np.array(shares), test)
        assert found == pytest.approx(matched, abs=0.02)
    assert thresholded_confidence(copies, is_right, np.array([1, 0]), copies[1]) < is_right[0].mean() - 0.15
    assert thresholded_confidence(copies[:1], np.ones((1, 2000), bool), np.ones(1), copies[0]) == 1


# Matching -------------------------------------------------------------------------------------------------------------


def copies_of(rng, num_sources, each=6):
    """Return copies (3, S, 6) of utterances as recorded, in noise and through a line, and their speakers (S,)."""
    speakers = np.arange(num_sources) // each
    clean = np.random.default_rng(1).standard_normal((100, 6))[speakers] + 0.5 * rng.standard_normal((num_sources, 6))
    noisy, line = clean.copy(), clean.copy()
    noisy[:, 0] += rng.uniform(0.5, 3, num_sources)
    line[:, 1] -= 2 + 0.3 * rng.standard_normal(num_sources)
    return np.stack([clean, noisy, line]).astype(np.float32), speakers


def test_the_shares_of_a_test_part_are_found_and_its_copies_not_told_from_it(monkeypatch):
    monkeypatch.setattr(matching, "NUM_DRAWS", 20)
    rng, shares = np.random.default_rng(0), np.array([0.3, 0.5, 0.2])
    copies, speakers = copies_of(rng, 240)
    others, _ = copies_of(rng, 240)
    drawn = rng.choice(3, 240, p=shares)
    found = match(copies, speakers, others[drawn, np.arange(240)], NAMES, APART)
    np.testing.assert_allclose(found.shares, np.bincount(drawn) / 240, atol=0.08)
    assert found.shares.sum() == pytest.approx(1)
    assert found.share_draws.shape == (20, 3)
    np.testing.assert_allclose(found.share_draws.std(0), np.sqrt(shares * (1 - shares) / 240), rtol=0.8)
    assert found.is_close
    foreign = others[0].copy()
    foreign[:, 3] *= 3
    found = match(copies, speakers, foreign, NAMES, APART)
    assert not found.is_close
    assert str(found).startswith("the test part sounds like ")
    assert "copies in these shares are still told from it (AUC 0." in str(found)


def test_shares_are_those_of_the_likeliest_mixture():
    rng, shares = np.random.default_rng(0), np.array([0.6, 0.3, 0.1])
    values = rng.choice(3, 5000, p=shares) * 1.5 + rng.standard_normal(5000)
    likelihood = np.exp(-((values[:, None] - 1.5 * np.arange(3)) ** 2) / 2)
    even = np.full(3, 1 / 3)
    np.testing.assert_allclose(mixture_shares(likelihood / likelihood.sum(1, keepdims=True), even, even), shares,
                               atol=0.03)
    open_between = np.tile([0.5, 0.5, 0.0], (10, 1))  # the expected mixture decides what the test part leaves open
    np.testing.assert_allclose(mixture_shares(open_between, np.array([0.2, 0.6, 0.2]), np.array([0.2, 0.6, 0.2])),
                               [2.7 / 11, 8.1 / 11, 0.2 / 11], atol=1e-6)


# Which validation decides ---------------------------------------------------------------------------------------------

SHARES = np.array([0.2, 0.5, 0.3])


def match_with(separation):
    return Match(NAMES, SHARES, np.tile(SHARES, (5, 1)), separation)


@pytest.mark.parametrize(("verdict", "found", "name", "weights", "is_bound"), [
    (CLEAN, None, "clean", [1], False),
    (Verdict("clean", APART, "cepstra"), None, "clean", [1], True),
    (SHIFTED, None, "clean", [1], True),
    (SHIFTED, match_with(ALIKE), "matched", SHARES, False),
    (SHIFTED, match_with(APART), "both", [0.6, 0.25, 0.15], True),
], ids=["clean", "cepstra", "no copies", "matched", "both"])
def test_which_held_out_copies_decide(verdict, found, name, weights, is_bound):
    validation = deciding_validation(verdict, found)
    assert validation.name == name
    assert validation.conditions == NAMES[: len(weights)]
    assert validation.is_bound is is_bound
    np.testing.assert_allclose(validation.weights, weights)
    per_copy = validation.per_copy(4)
    np.testing.assert_allclose(per_copy, np.repeat(np.array(weights)[:, None], 4, 1) / 4)
    is_right = np.random.default_rng(0).random((len(weights), 4)) < 0.5
    assert validation.accuracy(is_right) == pytest.approx((per_copy * is_right).sum())
    assert str(validation).startswith(str(verdict))


def test_what_is_said_of_each_validation():
    rng, labels = np.random.default_rng(0), np.zeros(400, int)
    rates = np.array([0.9, 0.6, 0.4])
    logits = {name: answers(rng, np.full(400, rate)) for name, rate in zip(NAMES, rates)}
    right = np.array([(logits[name].argmax(1) == 0).mean() for name in NAMES])
    tests = [answers(rng, rates[rng.choice(3, 500, p=SHARES)])]

    clean = expected_score(deciding_validation(CLEAN), logits, labels, 500, tests)
    assert clean.score == right[0]
    assert str(clean) == (f"expected on the test part: {clean.score:.4f} (95 % interval {clean.low:.4f} to "
                          f"{clean.high:.4f}), by clean held-out utterances")

    matched = expected_score(deciding_validation(SHIFTED, match_with(ALIKE)), logits, labels, 500)
    assert matched.score == matched.held_out == pytest.approx(SHARES @ right)
    surer = expected_score(deciding_validation(SHIFTED, match_with(ALIKE)), logits, labels, 500,
                           [np.where(np.arange(8) == 0, 9.0, 0)[None].repeat(500, 0)])
    assert surer.score == pytest.approx((SHARES @ right + 1) / 2)  # two estimates, far from one another
    assert surer.high - surer.low > 2 * (matched.high - matched.low)

    both = deciding_validation(SHIFTED, match_with(APART))
    blind = expected_score(both, logits, labels, 500)
    assert blind.is_bound
    assert blind.low == 0
    assert blind.held_out == pytest.approx((right[0] + SHARES @ right) / 2)
    assert str(blind) == (f"expected on the test part: at most {blind.high:.4f}, by held-out utterances, clean and "
                          "degraded alike, which flatter")
    told = expected_score(both, logits, labels, 500, tests)
    assert told.score == pytest.approx(thresholded_confidence(
        [logits[name] for name in NAMES], np.stack([logits[name].argmax(1) == 0 for name in NAMES]), SHARES, tests[0]))
    assert 0 < told.low < told.score < blind.high <= told.high
    assert "by how sure the answers are" in str(told)
    assert told.covers.startswith("the chance of which utterances were held out and which are in the test part, and of")

    folds = expected_score(deciding_validation(CLEAN), logits, labels, 500, [
        answers(rng, np.full(500, 0.9)) for _ in range(5)])
    assert folds.gain > 0.02
    assert folds.score == pytest.approx(min(1, right[0] + folds.gain))
    assert "that averaging the folds adds" in folds.covers
