"""The classical classifiers against explicit loops, closed forms and scikit-learn; state, threads, odd utterances."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from src.model.classical.cepstra import deltas, describe_frames
from src.model.classical.linear import LinearClassifier, fit_logistic_regression
from src.model.classical.mixture import GaussianMixture
from src.model.classical.statistics import Statistics
from src.model.classical.supervector import OCCUPATION_SCALE, Supervector

MEMBERS = {"supervector": Supervector, "statistics": Statistics}
BANDS = {"logmel": 40, "cepstra": 12}


def voices(kind, num_speakers=4, each=6, shortest=20, seed=0):
    """Return utterances [(T, F) float32] of speakers with a spectrum of their own, and their labels."""
    rng = np.random.default_rng(seed)
    spectra = np.random.default_rng(99).normal(size=(num_speakers, 3, BANDS[kind]))
    labels = np.repeat(np.arange(num_speakers), each)
    utterances = []
    for label in labels:
        num_frames = int(rng.integers(shortest, 3 * shortest))
        sounds = spectra[label, rng.integers(3, size=num_frames)]
        utterances.append((sounds + rng.normal(size=sounds.shape)).astype(np.float32))
    return utterances, labels


def mixture_of(frames, num_gaussians=3):
    mixture = GaussianMixture()
    return mixture, mixture.fit(torch.from_numpy(frames), num_gaussians, Generator().manual_seed(0))


@pytest.mark.parametrize("kind", BANDS)
@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_tells_speakers_apart_in_utterances_it_has_not_heard(name, kind):
    model = MEMBERS[name](kind)
    model.fit(*voices(kind), 4, seed=0)
    utterances, labels = voices(kind, seed=1)
    logits = model.logits(utterances)
    assert logits.shape == (24, 4)
    assert logits.dtype == torch.float32
    assert (logits.argmax(1).numpy() == labels).mean() > 0.9


def test_cepstra_deltas_and_loud_frames_are_those_of_plain_loops():
    frames = np.random.default_rng(0).normal(size=(10, 40)).astype(np.float32)
    order = sorted(sorted(range(10), key=lambda t: (-frames[t].mean(), t))[:8])  # the louder four fifths
    cepstra = np.array([[np.sqrt(2 / 40) * sum(frame[b] * np.cos(np.pi * k * (b + 0.5) / 40) for b in range(40))
                         for k in range(1, 25)] for frame in frames])
    padded = [cepstra[min(max(t, 0), 9)] for t in range(-2, 12)]
    slopes = [(padded[t + 3] - padded[t + 1] + 2 * (padded[t + 4] - padded[t])) / 10 for t in range(10)]
    expected = np.concatenate([cepstra, slopes], 1)[order]
    described = describe_frames(torch.from_numpy(frames), "logmel", 24, 0.8, False).numpy()
    np.testing.assert_allclose(described, expected, atol=1e-5)
    centred = describe_frames(torch.from_numpy(frames), "logmel", 24, 0.8, True).numpy()
    np.testing.assert_allclose(centred, expected - expected.mean(0), atol=1e-5)
    plain = describe_frames(torch.from_numpy(frames), "cepstra", 24, 0.8, False)  # all of them, as they are
    assert torch.equal(plain[:, :40], torch.from_numpy(frames))


def test_cepstra_forget_the_level_and_few_bands_give_few_cepstra():
    frames = torch.randn(30, 16, generator=Generator().manual_seed(0))
    described = describe_frames(frames, "logmel", 24, 0.8, False)
    assert described.shape == (24, 30)  # 15 cepstra above c0 and their deltas
    assert torch.allclose(described, describe_frames(frames + 3, "logmel", 24, 0.8, False), atol=1e-5)


def test_the_slope_of_a_ramp_is_its_own():
    ramp = torch.arange(9.0)[:, None] * 3
    assert torch.allclose(deltas(ramp)[2:-2], torch.tensor(3.0))


def test_the_likelihood_never_falls_and_is_that_of_the_densities_themselves():
    rng = np.random.default_rng(0)
    frames = np.concatenate([rng.normal(at, size=(200, 5)) for at in (-3, 0, 4)]).astype(np.float32)
    mixture, log_likelihoods = mixture_of(frames)
    assert (np.diff(log_likelihoods) > -1e-9).all()
    assert log_likelihoods[-1] > log_likelihoods[0] + 0.1
    weights, means, variances = (getattr(mixture, name).numpy() for name in ("weights", "means", "variances"))
    normal = mixture.normalise(torch.from_numpy(frames)).numpy().astype(float)
    density = sum(w * np.prod(np.exp(-((normal - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v), axis=1)
                  for w, m, v in zip(weights, means, variances))
    assert np.log(density).mean() == pytest.approx(log_likelihoods[-1], abs=1e-3)
    assert np.allclose(np.sort(weights), 1 / 3, atol=0.02)


def test_a_supervector_holds_the_map_means_of_a_plain_loop():
    utterances, labels = voices("cepstra")
    model = Supervector("cepstra", frames_per_gaussian=100, relevance=5.0)
    model.fit(utterances, labels, 4, seed=0)
    mixture = model.mixture
    frames = mixture.normalise(describe_frames(torch.from_numpy(utterances[3]), "cepstra", 24, 0.8, False)).double()
    weights, means, variances = (getattr(mixture, n).double().numpy() for n in ("weights", "means", "variances"))
    assert len(weights) > 2
    counts, sums = np.zeros(len(weights)), np.zeros_like(means)
    for frame in frames.numpy():
        joint = [w * np.exp(-0.5 * ((frame - m) ** 2 / v + np.log(2 * np.pi * v)).sum())
                 for w, m, v in zip(weights, means, variances)]
        for k, value in enumerate(joint):
            counts[k] += value / sum(joint)
            sums[k] += value / sum(joint) * frame
    expected = []
    for k in range(len(weights)):
        share = counts[k] / (counts[k] + 5.0)
        adapted = share * sums[k] / counts[k] + (1 - share) * means[k]
        expected.extend(np.sqrt(weights[k] / variances[k]) * (adapted - means[k]))
    expected.extend(OCCUPATION_SCALE * (counts / len(frames) - weights) / np.sqrt(weights))
    np.testing.assert_allclose(model._vector(utterances[3]).numpy(), expected, atol=1e-4)


def test_there_are_as_many_gaussians_as_frames_can_fit():
    utterances, labels = voices("cepstra", shortest=40)
    num_frames = sum(map(len, utterances))
    for most, per_gaussian, expected in ((64, 400, num_frames // 400), (3, 400, 3), (64, 10**9, 1)):
        model = Supervector("cepstra", num_gaussians=most, frames_per_gaussian=per_gaussian)
        model.fit(utterances, labels, 4, seed=0)
        assert len(model.mixture.weights) == expected


def test_logistic_regression_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    labels = np.arange(90) % 5
    vectors = rng.normal(size=(90, 8)) + np.eye(5, 8)[labels]
    theirs = LogisticRegression(C=3.0, tol=1e-10, max_iter=5000).fit(vectors, labels)
    weight, bias = fit_logistic_regression(torch.from_numpy(vectors), labels, 5, 3.0)
    ours = (vectors @ weight.numpy().T + bias.numpy()).astype(float)
    wanted = theirs.decision_function(vectors)
    np.testing.assert_allclose(ours - ours.mean(1, keepdims=True), wanted - wanted.mean(1, keepdims=True), atol=1e-3)


@pytest.mark.parametrize("shape", [(12, 30), (50, 6)])
def test_principal_components_are_scikit_learns(shape):
    from sklearn.decomposition import PCA

    vectors = np.random.default_rng(0).normal(size=shape)
    classifier = LinearClassifier()
    classifier.fit_components(torch.from_numpy(vectors), 4, standardise=False)
    theirs = PCA(4).fit(vectors)
    ours = classifier.components.numpy().T
    np.testing.assert_allclose(np.abs(ours @ theirs.components_.T), np.eye(4), atol=1e-4)
    projected = classifier.project(torch.from_numpy(vectors).float()).numpy()
    wanted = theirs.transform(vectors)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(projected), np.abs(wanted), atol=1e-4)


@pytest.mark.parametrize("name", MEMBERS)
def test_a_state_of_tensors_answers_bit_for_bit_as_the_model_that_it_was_saved_from(name, tmp_path):
    utterances, labels = voices("logmel")
    model = MEMBERS[name]("logmel")
    model.fit(utterances, labels, 4, seed=0)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    again = MEMBERS[name]("logmel")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(again.logits(utterances), model.logits(utterances))
    assert list(again.state_dict()) == list(model.state_dict())


FIT = """
import hashlib, sys
import torch
sys.path[:0] = {path!r}
from test_classical_parts import MEMBERS, voices
digest = hashlib.sha256()
for name, member in MEMBERS.items():
    utterances, labels = voices("logmel", num_speakers=30, each=12, shortest=120)
    model = member("logmel")
    model.fit(utterances, labels, 30, seed=0)
    for value in (*model.state_dict().values(), model.logits(utterances)):
        digest.update(value.numpy().tobytes())
print(torch.get_num_threads(), digest.hexdigest())
"""


def test_the_bytes_are_the_same_with_one_thread_and_with_two():
    found = []
    for threads in "12":
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        code = FIT.format(path=[str(Path(__file__).parent), str(Path(__file__).parents[2])])
        done = subprocess.run([sys.executable, "-c", code], env=os.environ | dict.fromkeys(names, threads),
                              capture_output=True, text=True, check=True)
        found.append(done.stdout.split())
    assert [threads for threads, _ in found] == ["1", "2"]  # the number that the caller had is given back
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("kind", BANDS)
@pytest.mark.parametrize("name", MEMBERS)
def test_single_frames_and_single_utterances_of_a_speaker_are_fitted_and_answered(name, kind):
    utterances, labels = voices(kind, num_speakers=5)
    utterances[5] = utterances[5][:1]
    utterances, labels = utterances[:25], labels[:25]  # a single one of the last speaker
    model = MEMBERS[name](kind)
    model.fit(utterances, labels, 5, seed=0)
    logits = model.logits([utterances[5], utterances[-1]])
    assert logits.isfinite().all()
    assert int(logits[1].argmax()) == 4


@pytest.mark.parametrize("name", MEMBERS)
def test_an_utterance_answers_alike_alone_and_among_others(name):
    utterances, labels = voices("logmel")
    model = MEMBERS[name]("logmel")
    model.fit(utterances, labels, 4, seed=0)
    together = model.logits([torch.from_numpy(utterance) for utterance in utterances])
    alone = torch.cat([model.logits([utterance]) for utterance in utterances])
    assert torch.allclose(together, alone, atol=1e-4)
