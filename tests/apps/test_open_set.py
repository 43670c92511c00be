"""Leaving speakers out: who is trained on, what is measured on whom, and that it is done once."""

import argparse
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from src import experiments
from src.apps import open_set
from src.apps.predict import answers as predict
from src.apps.predict.fold_models import FoldModels
from src.apps.predict.recordings import Recording
from src.base.errors import SettingError
from src.base.files import read_json, write_json
from src.competition.open import open_competition
from src.ensemble import blend
from src.preprocess import preprocess
from src.runs.calibration import equal_error
from src.runs.folder import Run
from src.runs.logits import log_softmax, read_logits
from src.runs.plan import make_plan
from src.settings.config import override, part
from src.store.store import Store
from src.training.run import run as train
from tests.support.competitions import write_table

TINY = {"encoder": part("transformer", d_model=16, num_heads=2, feed_forward_dim=32), "train.steps": 8,
        "train.batch_size": 8, "train.crop_frames": 8, "train.threads": 1, "train.device": "cpu", "folds": 2}


def trained(directory, **changes):
    competition = open_competition(directory)
    experiment = override(experiments.get("course"), TINY | changes)
    plan = make_plan(competition.name, preprocess(competition, experiment.features), experiment)
    train(plan, Store.open(plan.store_dir))
    return Run.open(plan.run_id)


def call(*arguments):
    parser = argparse.ArgumentParser()
    open_set.add_arguments(parser)
    open_set.main(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def five_dir(tmp_path):
    """Five speakers x 6 training utterances of frames that lie around the speaker's own place, and 5 test ones."""
    directory, rng = tmp_path / "five", np.random.default_rng(0)
    directory.mkdir()
    table = [(f"{name}_{take}", "train", name, 6 + take) for name in "abcde" for take in range(6)]
    table += [(f"test_{i}", "test", "", 9) for i in range(5)]
    frames = [rng.standard_normal((row[3], 4)) + 4 * np.eye(5, 4)["abcde".index(row[2])] if row[2]
              else rng.standard_normal((9, 4)) for row in table]
    write_table(directory / "frames.csv", [("utt_id", "split", "speaker", "num_frames"), *table])
    np.save(directory / "frames.npy", np.concatenate(frames).astype(np.float32))
    return directory


def test_the_speakers_left_out_are_never_trained_on_and_become_the_test_part(five_dir, workspace):
    store = Store.open(trained(five_dir, folds=1).store_dir())
    for left_out in (np.array([1]), np.array([0, 3])):
        reduced = open_set.leave_out(store, left_out)
        unknown = {store.speakers[i] for i in left_out}
        assert reduced.speakers == tuple(name for name in store.speakers if name not in unknown)
        for row in reduced.train_rows:
            assert reduced.speakers[reduced.labels[row]] == store.utt_ids[row][0]
        assert {store.utt_ids[row][0] for row in reduced.test_rows} == unknown
        assert (reduced.labels[reduced.test_rows] == -1).all()
        assert sorted([*reduced.train_rows, *reduced.test_rows]) == store.train_rows.tolist()
        assert reduced.digest != store.digest


def test_it_trains_once_measures_both_scores_and_leaves_the_run_as_it_was(five_dir, workspace, monkeypatch, capsys):
    run = trained(five_dir)
    before = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    taken = set()
    crops = Store.crops
    monkeypatch.setattr(Store, "crops", lambda store, rows, *rest: taken.update(rows.tolist()) or crops(
        store, rows, *rest))
    call(run.run_id)
    found = read_json(run.directory / "open_set.json")
    assert len(found["left_out"]) == found["num_left_out"] == 1
    utt_ids = Store.open(run.store_dir()).utt_ids
    assert {utt_ids[row][0] for row in taken} == set("abcde") - set(found["left_out"])
    assert all(path.read_bytes() == content for path, content in before.items())
    assert (found["num_known"], found["num_unknown"]) == (24, 6)

    other = Run.open(found["run"])
    known = np.concatenate([read_logits(fold.valid_path)[1] for fold in other.folds])
    unknown = np.concatenate([read_logits(fold.test_path)[1] for fold in other.folds])
    assert unknown.shape == (12, 4), "each fold's model scores every unknown utterance"
    energies = [torch.from_numpy(logits).double().logsumexp(1).numpy() for logits in (known, unknown)]
    tempered = [(torch.from_numpy(logits).double() / found["temperature"]).softmax(1).amax(1).numpy()
                for logits in (known, unknown)]
    for name, (of_known, of_unknown) in (("energy", energies), ("probability", tempered)):
        rates = found["scores"][name]
        assert rates["equal_error_rate"] == pytest.approx(equal_error(of_known, of_unknown).equal_error_rate)
        assert rates["known_refused"] == pytest.approx((of_known < rates["threshold"] - 1e-9).mean())
        for value, refused, accepted in list(zip(*rates["table"].values()))[10:90:20]:
            assert refused == pytest.approx((of_known < value).mean(), abs=0.05)
            assert accepted == pytest.approx((of_unknown >= value).mean(), abs=0.09)
    rates = {name: item["equal_error_rate"] for name, item in found["scores"].items()}
    assert rates[found["score"]] == min(rates.values())
    assert "refused and" in capsys.readouterr().out

    taken.clear()
    call(run.run_id)
    assert not taken, "what is trained is not trained again"
    assert read_json(run.directory / "open_set.json") == found
    assert Run.newest("five").run_id == run.run_id, "predict never takes the run without some speakers"
    with pytest.raises(SettingError, match="is itself a run without"):
        call(found["run"])


def test_a_run_on_all_utterances_holds_one_part_out_and_folds_can_be_fewer(five_dir, workspace):
    for run, arguments in ((trained(five_dir, folds="all"), ()), (trained(five_dir, folds=2, seed=1), ("--folds", 1))):
        call(run.run_id, *arguments)
        found = read_json(run.directory / "open_set.json")
        assert 0 < found["num_known"] < 24
        assert len(Run.open(found["run"]).folds) == 1


def test_a_second_round_is_measured_without_the_labels_of_the_first(five_dir, workspace, capsys):
    first = trained(five_dir)
    blend([first], Store.open(first.store_dir()).labels)
    second = trained(five_dir, **{"train.pseudo_labels": first.run_id})
    call(second.run_id, "--folds", 1)
    found = read_json(second.directory / "open_set.json")
    assert found["num_unknown"] == 6
    assert Run.open(found["run"]).experiment.train.pseudo_labels == ""
    assert f"without train.pseudo_labels={second.experiment.train.pseudo_labels}" in capsys.readouterr().out


def test_answers_of_several_crops_have_no_energy(five_dir, workspace):
    run = trained(five_dir, **{"infer.crops": 2})
    call(run.run_id, "--folds", 1)
    assert list(read_json(run.directory / "open_set.json")["scores"]) == ["probability"]


def test_a_tenth_is_left_out_always_the_same_and_two_remain():
    for count, expected in ((3, 1), (9, 1), (16, 2), (250, 25)):
        chosen = open_set.choose(count)
        assert len(set(chosen)) == expected
        assert (chosen == open_set.choose(count)).all()
        assert 0 <= chosen.min() <= chosen.max() < count
    with pytest.raises(SettingError, match="2 speakers"):
        open_set.choose(2)


def test_predict_refuses_at_the_temperature_that_was_measured(five_dir, workspace):
    run = trained(five_dir, folds="all")
    assert FoldModels(run).card.num_calibrated == 0
    measured = {"score": "probability", "temperature": 2.0, "num_known": 12, "num_left_out": 1, "scores": {
        "probability": {"threshold": 0.4, "known_refused": 0.1, "unknown_accepted": 0.2, "table": {}}}}
    write_json(run.directory / "open_set.json", measured)
    model = FoldModels(run)
    assert (model.card.temperature, model.card.num_calibrated) == (2.0, 12), "that of the run without some speakers"
    card = replace(model.card, temperature=1.0)  # as a run with folds of its own has another one
    recording = Recording(np.zeros((9, 4), np.float32), 0.0)
    log_probs, energies = log_softmax(np.array([[2.0, 0.0, 0.0, 0.0, 0.0]])), np.zeros(1)
    stand_in = SimpleNamespace(card=card, answer=lambda pieces: (log_probs, energies))
    refusal = predict.refusal_of(card, None)
    assert np.exp(log_probs).max() > 0.6 > 0.41 > np.exp(log_softmax(log_probs / 2)).max() > 0.4
    assert predict.answer_one(stand_in, five_dir, recording, refusal, 1).segments[0].speaker == "a"
    stricter = replace(refusal, value=0.45)
    assert predict.answer_one(stand_in, five_dir, recording, stricter, 1).segments[0].speaker is None
