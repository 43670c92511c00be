"""Crops: a pure function of the global sample index."""

from itertools import pairwise

import numpy as np

from src.training.sampler import CropSampler


def make(**changes):
    settings = {"rows": np.arange(100, 137), "num_frames": np.arange(10, 47), "labels": np.repeat([0, 1], [30, 7]),
                "crop_frames": 20, "seed": 3, "fold": 1} | changes
    return CropSampler(**settings)


def test_any_cut_of_the_sequence_gives_the_same_samples():
    whole = make().take(0, 200)
    for cut in ((0, 64, 200), (0, 1, 37, 38, 74, 75, 200), (0, 199, 200)):
        pieces = [make().take(a, b - a) for a, b in pairwise(cut)]  # a fresh sampler each: as after a resume
        for i in range(2):
            np.testing.assert_array_equal(np.concatenate([piece[i] for piece in pieces]), whole[i])


def test_an_epoch_sees_every_utterance_once_and_crops_lie_inside():
    rows, starts = make().take(0, 370)
    for epoch in range(10):
        assert sorted(rows[epoch * 37 : (epoch + 1) * 37]) == list(range(100, 137))
    slack = np.maximum(rows - 90 - 20, 0)  # lengths are rows - 90
    assert (starts >= 0).all()
    assert (starts <= slack).all()
    longest = starts[rows == 136]
    assert len(set(longest.tolist())) > 4, "crops of one utterance move from epoch to epoch"


def test_another_seed_fold_or_epoch_is_another_order():
    first = make().take(0, 37)[0]
    for other in (make(seed=4).take(0, 37)[0], make(fold=2).take(0, 37)[0], make().take(37, 37)[0]):
        assert (first != other).any()


def test_balanced_sampling_draws_classes_equally():
    rows, _ = make(balanced=True).take(0, 37 * 4)
    small = (rows >= 130).mean()
    assert abs(small - 0.5) < 0.02, small
    assert set(range(130, 137)) <= set(rows.tolist())
