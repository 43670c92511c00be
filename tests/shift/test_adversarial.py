"""Adversarial validation: what is held out, what AUC comes out, fair cuts and shifted ones, and what each line says."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_info, threadpool_limits

from src.model.frontend import LogMel
from src.settings.config import Features
from src.shift import adversarial
from src.shift.adversarial import Separation, cross_fitted_auc, examine, judge, nearest_speakers, told_apart
from src.shift.statistics import utterance_statistics
from src.store.store import Store


def utterances(rng, speakers, shift=0.0, sessions=None):
    """Return statistics (N, 8) of utterances: each speaker's own mean, each session's, and what varies."""
    voices = np.random.default_rng(1).standard_normal((50, 8)) * 1.5
    statistics = voices[speakers] + rng.standard_normal((len(speakers), 8))
    if sessions is not None:
        statistics += np.random.default_rng(2).standard_normal((1000, 8))[sessions] * 3
    statistics[:, :3] += shift
    return statistics.astype(np.float32)


def fair_cut(rng, num_speakers=10, each=10):
    """Return training and test statistics of as many utterances of each speaker, and the training part's speakers."""
    speakers = np.repeat(np.arange(num_speakers), each)
    return utterances(rng, speakers), utterances(rng, speakers), speakers


# The AUC --------------------------------------------------------------------------------------------------------------


def test_no_speaker_is_in_fit_and_held_out_and_the_auc_is_scikit_learn_s(monkeypatch):
    heard = []

    class Spy:
        def fit(self, inputs, is_second):
            heard.append([set(inputs[:, 1]), None, None])
            return self

        def predict_proba(self, inputs):
            heard[-1][1:] = inputs[:, 1], inputs
            return np.stack([-inputs[:, 0], inputs[:, 0]], 1)

    monkeypatch.setattr(adversarial, "trees", Spy)
    rng = np.random.default_rng(0)
    parts = [np.stack([rng.standard_normal(count) + gain, rng.integers(9, size=count), np.full(count, gain)], 1)
             for count, gain in ((70, 0), (110, 1))]
    auc = cross_fitted_auc(*parts, *(part[:, 1].astype(int) for part in parts), seed=0)
    assert len(heard) == 5
    assert all(not fitted & set(held_out) for fitted, held_out, _ in heard)
    held_out = [rows for *_, rows in heard]
    assert sorted(np.concatenate(held_out)[:, 0]) == sorted(np.concatenate(parts)[:, 0])
    by_fold = [roc_auc_score(rows[:, 2], rows[:, 0]) for rows in held_out]
    pairs = [(rows[:, 2] == 0).sum() * (rows[:, 2] == 1).sum() for rows in held_out]
    assert auc == pytest.approx(np.average(by_fold, weights=pairs), abs=1e-12)


def test_a_fair_cut_of_few_utterances_a_speaker_looks_fair():
    """Folds of utterances give 0.40 here: one training utterance of the speaker is missing where one is held out."""
    aucs = []
    for seed in range(8):
        train, test, speakers = fair_cut(np.random.default_rng(seed), 40, 4)
        aucs.append(cross_fitted_auc(train, test, speakers, nearest_speakers(train, speakers, test), seed))
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.03)


def test_the_nearest_speaker_is_mostly_the_speaker_through_another_microphone():
    train, test, speakers = fair_cut(np.random.default_rng(0))
    assert (nearest_speakers(train, speakers + 5, test * 2 + 7) == speakers + 5).mean() > 0.8


# The verdict ----------------------------------------------------------------------------------------------------------


def fairly_judged(seeds):
    """Return how many fair cuts are called clean."""
    return sum(not judge(told_apart(*fair_cut(np.random.default_rng(seed)))).is_shifted for seed in seeds)


def test_fair_cuts_are_clean():
    assert fairly_judged(range(6)) == 6


@pytest.mark.campaign
def test_of_a_hundred_fair_cuts_95_are_clean():
    assert fairly_judged(range(100)) >= 95


def test_other_sessions_are_shifted_and_uneven_speakers_are_not():
    rng = np.random.default_rng(0)
    even = np.repeat(np.arange(10), 12)
    train = utterances(rng, even)
    verdict = judge(told_apart(train, utterances(rng, even, shift=1.0), even))
    assert verdict.is_shifted
    assert str(verdict) == (f"train and test are told apart ({verdict.separation}): the test part comes from other "
                            "sessions, so degraded copies decide")
    uneven = np.repeat(np.arange(10), [36, 4] * 5)
    assert not judge(told_apart(train, utterances(rng, uneven), even)).is_shifted


def test_copies_of_one_recording_are_no_shift():
    rng = np.random.default_rng(3)
    train, test, speakers = fair_cut(rng)
    assert not judge(told_apart(train, test[np.repeat(np.arange(0, 100, 10), 10)], speakers)).is_shifted


def test_sessions_that_folds_hold_out_whole_are_not_laid_on_the_test_part():
    """Classes that are no speakers, such as emotions: held-out utterances are as new as the test's if sessions are."""
    rng = np.random.default_rng(0)
    labels, sessions = rng.integers(8, size=(2, 160)), rng.integers(20, size=160)
    train = utterances(rng, labels[0], sessions=sessions)
    test = utterances(rng, labels[1], sessions=sessions + 20)
    assert judge(told_apart(train, test, labels[0])).is_shifted
    assert not judge(told_apart(train, test, labels[0], [f"s{i}" for i in sessions])).is_shifted


def test_the_rule_by_hand():
    halves = (0.48, 0.50, 0.52, 0.50)  # mean 0.5, deviation 0.0163
    assert not Separation(0.548, halves, 5000, 5000).is_significant  # three deviations are 0.049, but 0.05 are needed
    assert Separation(0.552, halves, 5000, 5000).is_significant
    assert not Separation(0.59, halves, 100, 100).is_significant  # three of Mann and Whitney's are 0.123
    assert Separation(0.63, halves, 100, 100).is_significant
    assert str(Separation(0.63, halves, 100, 100)) == "AUC 0.63; random halves of train 0.50 ± 0.02"


# Stores ---------------------------------------------------------------------------------------------------------------


def store_of(kind, signals, labels, dim=0, settings=None):
    """Return a store held in memory: signals (frames, dim) or (samples,), labels -1 for the test part."""
    labels, lengths = np.array(labels), np.array([len(signal) for signal in signals])
    frames, names = np.concatenate(signals), tuple(f"s{i}" for i in range(labels.max() + 1))
    blank = [""] * len(labels)
    return Store(Path(), "", kind, dim, names, settings or {}, blank, labels, blank, blank, np.flatnonzero(labels >= 0),
                 np.flatnonzero(labels < 0), np.cumsum(lengths) - lengths, lengths, frames, torch.from_numpy(frames))


def spoken(kind="logmel", num_test=120, shift=0.0):
    """Return a store of 6 speakers x 20 training utterances and a test part."""
    rng = np.random.default_rng(0)
    labels = np.repeat([*range(6), -1], [20] * 6 + [num_test])
    speakers = np.where(labels < 0, np.arange(len(labels)) % 6, labels)
    signals = [rng.standard_normal((12, 3)).astype(np.float32) + np.float32([speaker, 0, 0]) for speaker in speakers]
    for signal, label in zip(signals, labels):
        signal[:, 1:] += shift * (label < 0)
    return store_of(kind, signals, labels, dim=3)


@pytest.mark.parametrize(("store", "name", "line"), [
    (spoken(), "clean", r"^train and test are not told apart \(AUC 0\.\d+; random halves of train 0\.\d+ ± 0\.\d+\): "
                        "clean held-out utterances decide$"),
    (spoken(shift=2.0), "shifted", "so degraded copies decide$"),
    (spoken("cepstra", shift=2.0), "clean", "told apart .* but cepstra cannot be degraded: clean held-out utterances "
                                            "decide, and flatter$"),
    (spoken(num_test=0), "clean", "^there is no test part: clean held-out utterances decide$"),
    (spoken(num_test=99, shift=2.0), "clean", r"^99 test utterances are too few to tell train from test \(100 are "),
    (replace(spoken(), train_rows=np.arange(19)), "clean", "^19 training utterances are too few"),
    (replace(spoken(), speakers=("s0",)), "clean", "^1 speakers are too few"),
], ids=["clean", "shifted", "cepstra", "no test", "few test", "few train", "one speaker"])
def test_every_verdict_says_why(store, name, line):
    verdict = examine(store)
    assert verdict.name == name
    assert re.search(line, str(verdict)), str(verdict)


def test_statistics_are_those_of_the_frames_and_waveforms_become_log_mels():
    settings = {"sample_rate": 8000, "num_mels": 10, "n_fft": 200, "win_length": 200, "hop_length": 80, "f_min": 50.0,
                "log_floor": 1e-9, "peak_db": -3.0}
    rng = np.random.default_rng(0)
    signals = [(rng.standard_normal(size) * 3000).astype(np.int16) for size in (900, 150, 4000)]
    store = store_of("waveform", signals, [0, 1, -1], settings=settings)
    log_mel = LogMel(Features(store="waveform", **settings))
    found = utterance_statistics(store, np.array([2, 1]))
    assert found.dtype == np.float32
    assert found.shape == (2, 40)
    for row, values in zip((2, 1), found):
        frames = log_mel(torch.from_numpy(signals[row] / np.float32(32768))[None])[0].numpy()
        expected = [frames.mean(0), frames.std(0), np.quantile(frames, 0.05, axis=0), np.quantile(frames, 0.95, axis=0)]
        np.testing.assert_allclose(values, np.concatenate(expected), rtol=1e-5, atol=1e-5)


def test_at_most_2000_utterances_of_a_part_are_read():
    rows = np.arange(64_666)
    drawn = adversarial.sample(rows)
    assert len(set(drawn)) == 2000
    assert (np.diff(drawn) > 0).all()
    assert (drawn == adversarial.sample(rows)).all()
    assert (adversarial.sample(rows[:2000]) == rows[:2000]).all()


def test_the_verdict_is_the_same_whatever_the_threads(monkeypatch):
    monkeypatch.setattr(adversarial, "NUM_HALVES", 2)
    trees, threads = adversarial.trees, []

    def spy():
        threads.extend(library["num_threads"] for library in threadpool_info())
        return trees()

    monkeypatch.setattr(adversarial, "trees", spy)
    said = []
    for limit in (1, 3):
        with threadpool_limits(limit):
            said.append(told_apart(*fair_cut(np.random.default_rng(0))))
    assert said[0] == said[1]
    assert set(threads) == {1}
