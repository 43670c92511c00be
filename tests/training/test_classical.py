"""Classical models in the stream: experiments like any other, from the plan to the answers for new recordings."""

import argparse

import numpy as np
import pytest
import torch

from src import experiments
from src.apps.predict import command as predict
from src.base.errors import SettingError
from src.competition.open import open_competition
from src.ensemble import blend
from src.model.checkpoint import load_model
from src.preprocess import preprocess
from src.runs.logits import read_logits
from src.runs.plan import make_plan
from src.settings.config import override
from src.store.store import Store
from src.training.run import run

SMALL = {"encoder.num_components": 8, "folds": 2}
NAMES = ("supervector", "supervector_norm", "statistics")


def trained(directory, name, **changes):
    competition = open_competition(directory)
    experiment = override(experiments.get(name), ({} if name == "course" else SMALL) | changes)
    plan = make_plan(competition.name, preprocess(competition, experiment.features), experiment)
    result = run(plan, Store.open(plan.store_dir))
    return plan, result


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["frames_dir", "course_dir", "audio_dir"])
def test_it_is_fitted_fold_by_fold_kept_and_read_again(request, workspace, name, kind):
    plan, result = trained(request.getfixturevalue(kind), name)
    store = Store.open(plan.store_dir)
    assert result["num_classes"] == 3
    rows, logits = plan.run.held_out()
    assert sorted(rows) == sorted(store.train_rows)
    assert np.isfinite(logits).all()
    assert (logits.argmax(1) == store.labels[rows]).mean() == result["valid"]
    if kind != "frames_dir" and name != "supervector_norm":  # noise, and voices that differ by their mean alone
        assert result["valid"] >= 0.5
    model, experiment, speakers = load_model(plan.run.fold(0).model_path)
    assert experiment == plan.experiment
    assert speakers == store.speakers
    batch = store.utterances(store.test_rows)
    again = model(*model.extract(batch.inputs, batch.lengths)).numpy()
    np.testing.assert_allclose(again, read_logits(plan.run.fold(0).test_path)[1], atol=1e-5)
    before = plan.run.fold(1).model_path.read_bytes()
    plan.run.result_path.unlink()
    plan.run.fold(1).result_path.unlink()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    run(plan, store)
    torch.set_num_threads(threads)
    assert plan.run.fold(1).model_path.read_bytes() == before, "the same bytes, whatever the threads"


def test_what_has_no_effect_changes_no_name_and_both_mean_norms_are_refused(audio_dir, workspace):
    plan, _ = trained(audio_dir, "statistics")
    other, _ = trained(audio_dir, "statistics", **{"optim.lr": 0.5, "train.batch_size": 7, "pooling": "max"})
    assert other.run_id == plan.run_id
    with pytest.raises(SettingError, match=r"frontend\.mean_norm=both: a classical model"):
        trained(audio_dir, "statistics", **{"frontend.mean_norm": "both"})


def test_it_is_blended_with_a_network_and_answers_for_recordings(audio_dir, workspace, capsys):
    plan, _ = trained(audio_dir, "supervector")
    network, _ = trained(audio_dir, "course", **{"train.steps": 5, "train.crop_frames": 20, "encoder.d_model": 8,
                                                 "folds": 2})
    made = blend([plan.run, network.run], Store.open(plan.store_dir).labels)
    assert set(made.result["members"]) == {plan.run_id, network.run_id}
    parser = argparse.ArgumentParser()
    predict.add_arguments(parser)
    predict.main(parser.parse_args([str(audio_dir / "test" / "t1.wav"), "--run", plan.run_id]))
    assert "t1.wav: bert" in capsys.readouterr().out
