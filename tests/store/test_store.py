"""The store: crops are slices, batches cover every row once, folds keep speakers apart from chance and groups whole."""

import os
import pickle
import shutil
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from src.base.errors import RunError, SettingError
from src.competition.open import open_competition
from src.preprocess import preprocess
from src.settings.config import Features
from src.store.store import Store
from src.store.table import Table
from tests.support.competitions import write_table


@pytest.fixture(params=["frames", "waveform"])
def store(request, workspace):
    """A store of cepstra and one of waveforms."""
    directory = request.getfixturevalue({"frames": "frames_dir", "waveform": "audio_dir"}[request.param])
    kind = "waveform" if request.param == "waveform" else "logmel"
    return Store.open(preprocess(open_competition(directory), Features(store=kind)))


def utterance(store, row):
    """Return an utterance as float32, read from the file by hand."""
    kind = {"cepstra": np.float32, "waveform": np.int16}[store.kind]
    flat = np.fromfile(store.directory / "frames.bin", kind).astype(np.float32)
    flat = flat.reshape(-1, store.dim) if store.dim else flat / 32768
    return flat[store.offsets[row] : store.offsets[row] + store.num_frames[row]]


@pytest.mark.parametrize("place", ["memory map", "resident"])
def test_crops_are_slices_and_short_utterances_are_padded(store, place):
    held = replace(store, flat=store.flat.clone()) if place == "resident" else store
    rows = np.array([*store.train_rows[::-1], *store.train_rows[:3], len(store.num_frames) - 1])
    shortest, longest = store.num_frames.min(), store.num_frames.max()
    for size in (int(shortest), int(shortest) + 3, int(longest) + 1, int(store.num_frames.sum()) + 1):
        starts = np.maximum(store.num_frames[rows] - size, 0)  # the last full crop: another utterance follows
        batch = held.crops(rows, starts, size)
        assert batch.inputs.dtype == torch.float32
        for i, (row, start) in enumerate(zip(rows, starts)):
            wanted = utterance(store, row)[start : start + size]
            np.testing.assert_array_equal(batch.inputs[i, : len(wanted)], wanted)
            assert not batch.inputs[i, len(wanted) :].any()
            assert (size if batch.lengths is None else batch.lengths[i]) == len(wanted)
        assert (batch.lengths is None) == (store.num_frames[rows] >= size).all()
        assert batch.labels is None  # the last row is a test utterance
    assert held.crops(store.train_rows, np.zeros(18, int), 4).labels.tolist() == store.labels[store.train_rows].tolist()


@pytest.mark.parametrize("repeat", [False, True])
def test_crops_gathered_as_on_a_gpu_are_those_of_the_windows(store, repeat):
    rows = store.train_rows
    for size in (int(store.num_frames.min()), int(store.num_frames.max()) - 1, 2 * int(store.num_frames.max()) + 1):
        lengths = np.minimum(store.num_frames[rows], size)
        starts = store.num_frames[rows] - lengths
        batch = store.crops(rows, starts, size, repeat)
        gathered = store._gathered(rows, store.offsets[rows] + starts, lengths, size, repeat)
        assert torch.equal(batch.inputs, gathered.inputs)
        assert torch.equal(batch.labels, gathered.labels)
        assert (gathered.lengths is None) == (repeat or size <= store.num_frames.min())
        assert gathered.lengths is None or gathered.lengths.tolist() == lengths.tolist()
        assert batch.lengths is None or torch.equal(batch.lengths, gathered.lengths)


def test_a_short_utterance_may_begin_again(store):
    row, length = int(store.train_rows[0]), int(store.num_frames[store.train_rows[0]])
    batch = store.crops([row], [0], 2 * length + 3, repeat=True)
    assert batch.lengths is None
    np.testing.assert_array_equal(batch.inputs[0], np.concatenate([utterance(store, row)] * 3)[: 2 * length + 3])


def test_a_crop_never_reads_another_utterance(store):
    size = int(store.num_frames[0]) - 1
    for start in (-1, 2):
        with pytest.raises(IndexError):
            store.crops([0], [start], size)
    with pytest.raises(IndexError):
        store.crops([0], [1], size + 9)


def test_batches_hold_every_row_once_within_the_budget(store):
    rows = np.random.default_rng(0).permutation(len(store.num_frames))
    longest = int(store.num_frames.max())
    for budget in (1, longest, 3 * longest, 10**9):
        seen = []
        for batch_rows, batch in store.batches(rows, budget):
            assert batch.inputs.shape[0] == len(batch_rows)
            assert len(batch_rows) == 1 or batch.inputs.shape[0] * batch.inputs.shape[1] <= budget
            for i, row in enumerate(batch_rows):
                wanted = utterance(store, row)
                np.testing.assert_array_equal(batch.inputs[i, : len(wanted)], wanted)
                assert not batch.inputs[i, len(wanted) :].any()
                assert (batch.inputs.shape[1] if batch.lengths is None else batch.lengths[i]) == len(wanted)
            longest_here = store.num_frames[batch_rows].max()
            assert batch.inputs.shape[1] == (longest_here if store.kind == "waveform" else -(-longest_here // 16) * 16)
            seen += batch_rows.tolist()
        assert sorted(seen) == list(range(len(rows)))
    assert list(store.batches([], 100)) == []


def labelled(labels, groups=None):
    """A store of training utterances with these classes and groups, and two test utterances, without frames."""
    labels, n = np.array(labels), len(labels)
    return Store(directory=None, digest="", kind="logmel", dim=40, speakers=tuple(map(str, range(labels.max() + 1))),
                 settings={}, utt_ids=[], labels=np.append(labels, [-1, -1]), groups=[*(groups or [""] * n), "", ""],
                 texts=[], train_rows=np.arange(n), test_rows=np.array([n, n + 1]), offsets=None, num_frames=None,
                 frames=None, flat=None)


def check_folds(store, folds):
    """Check what holds for any folds, and return the rows that are validated."""
    everyone, validated = set(store.train_rows.tolist()), []
    for train, valid in folds:
        assert set(train) | set(valid) == everyone
        assert not set(train) & set(valid)
        assert set(store.labels[valid]) <= set(store.labels[train])
        named = [{store.groups[row] for row in rows} - {""} for rows in (train, valid)]
        assert not named[0] & named[1]
        assert len(valid)
        validated += valid.tolist()
    assert len(set(validated)) == len(validated)
    return sorted(validated)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_folds_are_stratified_fixed_and_whole():
    store = labelled(np.random.default_rng(0).permutation(np.repeat(np.arange(7), 11)))
    folds = store.folds(4)
    assert check_folds(store, folds) == list(range(77))
    for _, valid in folds:
        assert set(Counter(store.labels[valid].tolist()).values()) <= {2, 3}
        assert len(valid) in (19, 20)
    for (a, b), (c, d) in zip(folds, store.folds(4)):
        assert a.tolist() == c.tolist()
        assert b.tolist() == d.tolist()
    (held_out,) = store.folds(1)
    assert held_out[1].tolist() == store.folds(5)[0][1].tolist()
    ((train, valid),) = store.folds("all")
    assert (train.tolist(), len(valid)) == (list(range(77)), 0)


def test_a_class_of_one_utterance_is_always_trained_and_a_class_of_two_is_validated():
    store = labelled([0] * 9 + [1] * 9 + [2] + [3] * 2)
    assert check_folds(store, store.folds(5)) == [i for i in range(21) if i != 18]


def test_groups_are_never_split_and_a_class_of_one_group_is_always_trained():
    rng = np.random.default_rng(0)
    labels, groups = [], []
    for speaker in range(30):  # an unequal three-class task, by speaker
        labels += [int(rng.choice(3, p=[0.6, 0.3, 0.1]))] * 8
        groups += [f"s{speaker}"] * 8
    labels, groups = [*labels, 3, 3, 0], [*groups, "only", "only", ""]
    store = labelled(labels, groups)
    assert check_folds(store, store.folds(5)) == [i for i in range(243) if i not in (240, 241)]


@pytest.mark.parametrize(("labels", "groups", "folds", "message"), [
    ([0, 1, 0], None, 5, "5 folds need as many groups of training utterances; there are 3"),
    ([0, 1, 2, 3, 4, 5], None, 2, "would validate nothing"),
    ([0, 0, 1, 1] * 3, ["a", "a", "b", "b"] * 3, 3, "there are 2"),
    ([0, 1] * 9, None, 0, "above 0"),
])
def test_folds_that_cannot_be_made_are_refused(labels, groups, folds, message):
    with pytest.raises(SettingError, match=message):
        labelled(labels, groups).folds(folds)


def test_one_fold_is_the_first_of_as_many_as_can_be_made():
    store = labelled([0, 0, 1, 1, 2, 2], ["a", "b", "c", "d", "e", "e"])
    (held_out,) = store.folds(1)
    with pytest.raises(SettingError, match="use fewer folds"):
        store.folds(5)
    assert [part.tolist() for part in held_out] == [part.tolist() for part in store.folds(2)[0]]
    with pytest.raises(SettingError, match=r"folds=1: 5 folds need as many groups .* there are 3"):
        labelled([0, 1, 2]).folds(1)


def test_labels_groups_and_texts_come_through(audio_dir, workspace):
    write_table(audio_dir / "utterances.csv", [("path", "label", "group", "text"), *(
        (f"train/{name}/{take}", "f" if name == "anna" else "m", name, f'SAYS "{take}", TWICE')
        for name in ("anna", "bert") for take in ("0.wav", "1.flac"))])
    store = Store.open(preprocess(open_competition(audio_dir), Features()))
    assert store.speakers == ("f", "m")
    assert store.labels.tolist() == [0, 0, 1, 1, -1, -1, -1, -1]
    assert store.groups == ["anna", "anna", "bert", "bert", "", "", "", ""]
    assert store.texts[1] == 'SAYS "1.flac", TWICE'


def test_a_table_is_the_store_without_its_frames(store):
    table = Table.open(store.directory)
    assert set(vars(store)) - set(vars(table)) == {"frames", "flat"}
    for name, value in vars(table).items():
        np.testing.assert_array_equal(value, getattr(store, name), err_msg=name)
    assert table.table_digest == store.table_digest != store.labelled(np.array([0]), np.array([2])).table_digest
    for parts, others in zip(table.folds(3), store.folds(3)):
        np.testing.assert_array_equal(np.concatenate(parts), np.concatenate(others))
    assert table.samples_per_frame == (160 if store.kind == "waveform" else 1)


def test_a_store_in_another_process_and_on_its_own_device_is_the_same(store):
    changed = replace(store, digest="another").labelled(store.train_rows, store.labels[store.train_rows][::-1])
    copy = pickle.loads(pickle.dumps(changed))
    assert len(pickle.dumps(changed)) < 5000, "the frames stay where they are"
    assert (copy.digest, copy.labels.tolist()) == ("another", changed.labels.tolist())
    assert torch.equal(copy.flat, store.flat)
    assert store.to("cpu") is store, "mapped, not copied into memory"


@pytest.mark.parametrize("tear", [
    lambda d: os.truncate(d / "frames.bin", 100), lambda d: (d / "table.csv").write_text("utt_id,split\n"),
    lambda d: (d / "meta.json").write_text('{"kind": "cep'), lambda d: (d / "frames.bin").unlink(),
], ids=["frames", "table", "meta", "missing"])
def test_a_torn_store_is_refused_and_made_anew(frames_dir, workspace, tear):
    competition = open_competition(frames_dir)
    path = preprocess(competition, Features())
    whole = (path / "frames.bin").read_bytes()
    tear(path)
    for kind in (Store, Table):
        with pytest.raises(RunError, match=r"not a whole store .* remove this folder and run preprocess again"):
            kind.open(path)
    shutil.rmtree(path)
    assert preprocess(competition, Features()) == path
    assert (path / "frames.bin").read_bytes() == whole
