"""Blending: hand-made runs with known answers; test logits never move a weight."""

import numpy as np
import pytest

from src.base.errors import InputError, RunError, SettingError
from src.ensemble import blend, cross_fitted_accuracy, fit_weights
from src.runs.folder import Run
from src.runs.logits import log_softmax, read_logits
from tests.support.runs import CLASSES, noisy_logits, two_folds, write_run


@pytest.fixture
def labels():
    return np.random.default_rng(0).integers(CLASSES, size=400)


def test_folds_are_averaged_as_log_posteriors_and_shifts_of_logits_do_not_matter(tmp_path, labels):
    folds, logits = two_folds(labels, 2.0, 1)
    test = [np.random.default_rng(s).normal(size=(5, CLASSES)) * 3 for s in (1, 2)]
    plain = blend([write_run(tmp_path / "a", "x", folds, test)], labels)
    shifted = blend([write_run(tmp_path / "b", "x", folds, test, shift=50.0)], labels)
    exponent = [np.exp(t) / np.exp(t).sum(1, keepdims=True) for t in test]
    expected = (np.log(exponent[0]) + np.log(exponent[1])) / 2
    np.testing.assert_allclose(read_logits(plain.test_path)[1], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(read_logits(shifted.test_path)[1], expected, rtol=1e-5, atol=1e-4)
    assert plain.result["valid"] == pytest.approx((logits.argmax(1) == labels).mean())


def test_weights_prefer_skill_and_never_see_the_test(tmp_path, labels):
    skilled, _ = two_folds(labels, 2.5, 1)
    useless, _ = two_folds(labels, 0.0, 2)
    weights = []
    for test_seed, where in ((3, "a"), (4, "b")):  # other test logits: the same weights
        test = [np.random.default_rng(test_seed).normal(size=(5, CLASSES)) * 100] * 2
        out = blend([write_run(tmp_path / where, "good", skilled, test),
                     write_run(tmp_path / where, "bad", useless, test)], labels)
        weights.append(out.result["members"])
    assert weights[0] == weights[1]
    assert weights[0]["c/good-00000000"] > 5 * weights[0]["c/bad-00000000"]


def test_the_fit_is_the_minimum_of_the_cross_entropy(labels):
    stacked = np.stack([log_softmax(noisy_logits(labels, skill, seed)) for seed, skill in enumerate((2.0, 1.5, 0.5))])

    def loss(weights):
        pull = weights - weights.mean()
        mixed = log_softmax(np.tensordot(weights, stacked, 1))
        return -mixed[np.arange(len(labels)), labels].mean() + 0.01 * (pull**2).sum()

    best = fit_weights(stacked, labels)
    for delta in np.eye(3) * 0.02:
        assert loss(best) <= loss(np.maximum(best + delta, 0)) + 1e-7
        assert loss(best) <= loss(np.maximum(best - delta, 0)) + 1e-7


def test_a_cross_fitted_accuracy_does_not_flatter_noise():
    labels = np.random.default_rng(5).integers(CLASSES, size=200)
    noise = np.stack([log_softmax(noisy_logits(labels, 0.0, seed)) for seed in range(40)])
    fitted = fit_weights(noise, labels)
    flattered = (np.tensordot(fitted, noise, 1).argmax(1) == labels).mean()
    honest = cross_fitted_accuracy(noise, labels)
    assert flattered > 0.32, "weights fitted and scored on the same utterances look better than chance"
    assert abs(honest - 0.25) < 0.08


def test_runs_that_do_not_fit_together_are_refused(tmp_path, labels):
    folds, _ = two_folds(labels, 1.0, 1)
    test = [np.zeros((5, CLASSES))] * 2
    one = write_run(tmp_path, "one", folds, test)
    with pytest.raises(SettingError, match="not about the same utterances"):
        blend([one, write_run(tmp_path, "two", folds, test, table="other")], labels)
    unfinished = tmp_path / "three-00000000"
    unfinished.mkdir()
    with pytest.raises(RunError, match="not finished"):
        blend([Run(unfinished)], labels)
    one.fold(0).valid_path.write_bytes(b"PK torn")
    with pytest.raises(InputError, match="unreadable logits"):
        blend([one], labels)


def test_a_member_without_validation_gets_the_mean_weight(tmp_path, labels):
    folds, _ = two_folds(labels, 2.0, 1)
    test = [np.zeros((5, CLASSES))] * 2
    nothing = [(np.empty(0, int), np.empty((0, CLASSES)))]
    out = blend([write_run(tmp_path, "a", folds, test), write_run(tmp_path, "b", two_folds(labels, 1.0, 2)[0], test),
                 write_run(tmp_path, "c", nothing, test[:1])], labels)
    result = out.result
    assert result["valid"] is None, "what two of three runs reach is not the blend's accuracy"
    weights = result["members"]
    mean = (weights["c/a-00000000"] + weights["c/b-00000000"]) / 2
    assert weights["c/c-00000000"] == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize(("runs", "common", "num_held_out"), [
    ((5,), 5, 5), ((1,), 1, 1), ((2, 2), 2, 2), ((1, 5), 1, 1), ((4, 5), "all", 0), ((1, 2), "all", 0),
    ((5, "all"), "all", 0), (("all",), "all", 0)])
def test_a_blend_says_which_folds_none_of_its_runs_has_seen(tmp_path, labels, runs, common, num_held_out):
    directories = []
    for i, folds in enumerate(runs):
        rows = [np.empty(0, int)] if folds == "all" else np.array_split(np.arange(400), 5 if folds == 1 else folds)
        rows = rows[:1] if folds == 1 else rows
        parts = [(part, noisy_logits(labels[part], 1.0, i)) for part in rows]
        directories.append(write_run(tmp_path, f"run{i}", parts, [noisy_logits(labels[:9], 1.0, 9)] * len(parts)))
    out = blend(directories, labels)
    assert out.result["folds"] == common
    with np.load(out.pseudo_labels_path) as content:
        assert len(content["labels"]) == num_held_out + 1, "of each fold, and of all together"
