"""Two folders of one name are two competitions, for every command that a person may type."""

import argparse
import shutil

import pytest

from src import experiments
from src.apps.predict import command as predict
from src.base.errors import RunError
from src.base.workspace import runs_dir
from src.competition.open import find_folder, open_competition
from src.preprocess import preprocess
from src.runs.plan import make_plan
from src.settings.config import Features, override
from src.store.store import Store
from src.training.run import run

TINY = {"train.steps": 3, "train.batch_size": 4, "train.crop_frames": 20, "encoder.d_model": 8, "folds": "all"}


def trained(directory):
    competition = open_competition(directory)
    plan = make_plan(competition.name, preprocess(competition, Features()), override(experiments.get("course"), TINY))
    run(plan, Store.open(plan.store_dir))
    return plan


@pytest.fixture
def twins(tmp_path, audio_dir):
    """Return A/data and B/data: other speakers under one name."""
    first, second = tmp_path / "A" / "data", tmp_path / "B" / "data"
    first.parent.mkdir()
    second.parent.mkdir()
    shutil.copytree(audio_dir, first)
    shutil.copytree(audio_dir, second)
    for name in ("anna", "bert", "carl"):
        (second / "train" / name).rename(second / "train" / f"other_{name}")
    (second / "sample_submission.csv").unlink()
    return first, second


def answer(recording, directory):
    parser = argparse.ArgumentParser()
    predict.add_arguments(parser)
    predict.main(parser.parse_args([str(recording), "--data", str(directory)]))


def test_the_first_folder_keeps_the_name_and_each_is_answered_by_its_own_run(twins, workspace, capsys):
    first, second = twins
    plans = [trained(first), trained(second)]
    assert [plan.competition for plan in plans] == ["data", "data-2"]
    assert f"{second}: called 'data-2' here" in capsys.readouterr().out
    for directory, plan in zip(twins, plans):
        answer(first / "test" / "t0.wav", directory)
        said = capsys.readouterr().out
        assert said.startswith(f"{plan.run_id}: 3 speakers")
        assert ("other_" in said) == (directory == second)
        assert find_folder(plan.competition) == directory
    assert [open_competition(directory).name for directory in (second, first)] == ["data-2", "data"], "in any order"


def test_a_folder_that_holds_a_competition_alone_owns_the_name(tmp_path, audio_dir, workspace, capsys):
    outer = tmp_path / "outer"
    shutil.copytree(audio_dir, outer / "Dataset")
    for _ in range(2):
        preprocess(open_competition(outer), Features())
        assert "another folder has its name" not in capsys.readouterr().out
    assert find_folder("outer") == outer
    assert open_competition(find_folder("outer")).name == "outer"


def test_a_folder_that_moves_keeps_its_name_and_one_that_takes_its_place_is_not_answered_by_its_run(twins, workspace,
                                                                                                   capsys):
    first, second = twins
    plan = trained(first)
    moved = first.rename(first.with_name("moved")).rename(first.parent / "data")
    assert open_competition(moved).name == "data"
    shutil.rmtree(first)
    assert open_competition(second).name == "data", "the folder that had the name is gone"
    preprocess(open_competition(second), Features())
    with pytest.raises(RunError, match=rf"B/data: {plan.run_id} was trained on other files"):
        answer(second / "test" / "t0.wav", second)
    assert [path.name for path in runs_dir("data").iterdir()] == [plan.directory.name]
