"""The search: its space reaches every part, its first trial is the experiment itself, its rows rerun exactly."""

import argparse
import itertools
import os
import shlex
import signal
import subprocess
import sys
import time

import optuna
import pytest
from optuna.trial import TrialState

from src import experiments
from src.base.errors import DivergedError, RunError, SettingError
from src.base.files import write_json
from src.competition.open import open_competition
from src.ledger import file as ledger
from src.ledger.row import group, make_row
from src.model.speaker_model import SpeakerModel
from src.preprocess import preprocess
from src.runs.plan import make_plan
from src.search import promote, tune
from src.search import trial as objective
from src.search.question import ask, assignments, command_of
from src.search.space import SPACE, fitting, space_for
from src.search.storage import open_storage
from src.settings.auto import DataSummary, adapt
from src.settings.config import override, parse_assignments, part
from src.settings.parts import SLOTS, build, catalogue, complete_experiment

pytestmark = [pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
              pytest.mark.filterwarnings("ignore:Heartbeat of storage")]
KINDS = {"cepstra": 12, "logmel": 40, "waveform": 0}


def adapted(experiment, kind):
    frames = 15 if kind == "cepstra" else 400
    return adapt(override(experiment, {"train.steps": 200, "folds": 1}), DataSummary(kind, 270, 30, frames))


def random_draws(space, count):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space.suggest(study.ask()) for _ in range(count)]


def searched(slot):
    """Return the parts that a search draws: all but encoders of waveforms, which begin from a pretraining."""
    return {name for name, item in catalogue(slot).items() if slot != "encoder" or item.takes == "frames"}


@pytest.mark.parametrize("slot", SLOTS)
def test_every_registered_part_can_be_drawn(slot):
    drawn = {choice for dimension in SPACE if dimension.key == slot for choice in getattr(dimension, "choices", ())}
    drawn |= {dimension.key.split(".")[1] for dimension in SPACE if dimension.key.startswith(f"{slot}.")
              and dimension.key.count(".") == 1 and slot == "augment"}
    missing = searched(slot) - drawn
    assert not missing, f"src/search_space.py cannot reach {slot} {sorted(missing)}"
    fits = {key for kind in KINDS for key in (dimension.key for dimension in fitting(kind))}
    assert slot != "augment" or {f"augment.{name}" for name in catalogue(slot)} <= fits


@pytest.mark.parametrize("kind", KINDS)
def test_every_draw_means_one_experiment_that_can_be_built(kind):
    named = experiments.get("course")
    space = space_for(adapted(named, kind), kind)
    assert len({dimension.name for dimension in space.dimensions}) == len(space.dimensions)
    seen = set()
    for drawn in random_draws(space, 80):
        experiment = complete_experiment(space.apply(drawn, space.start, 200))
        again = space.params_of(experiment)
        assert again.keys() == drawn.keys()
        for name, value in drawn.items():
            assert again[name] == (round(value * 200) / 200 if name == "optim.warmup_steps_share" else value), name
        assert complete_experiment(override(named, parse_assignments(assignments(named, experiment)))) == \
            complete_experiment(override(experiment, {"name": "course", "hypothesis": named.hypothesis}))
        for item in experiment.augment:
            build("augment", item)
        if experiment.encoder.name not in seen:
            SpeakerModel(experiment, kind, KINDS[kind], 3)
            seen.add(experiment.encoder.name)
    assert seen == searched("encoder")


def test_largest_settings_of_every_part_fit_together():
    space = space_for(adapted(experiments.get("course"), "logmel"), "logmel")
    for slot in ("encoder", "pooling", "head"):
        for name in searched(slot):
            own = [d for d in space.dimensions if d.when == name]
            for pick in (min, max):
                values = {d.key: pick(d.choices if hasattr(d, "choices") else (d.low, d.high)) for d in own}
                experiment = override(space.start, {slot: name, **values})
                SpeakerModel(complete_experiment(experiment), "logmel", 40, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_first_trial_is_the_experiment_itself(kind):
    for name in experiments.names():
        if experiments.get(name).encoder.name not in searched("encoder") | {"auto"}:
            continue
        start = adapted(experiments.get(name), kind)
        space = space_for(start, kind)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        study.enqueue_trial(space.params_of(start))
        assert complete_experiment(space.apply(space.suggest(study.ask()), start, 200)) == start, name


def test_what_no_draw_can_reach_stays_as_it_is():
    odd = adapted(override(experiments.get("course"), {
        "encoder": part("campplus", blocks=(2, 2, 2), growth_rate=24), "optim.weight_decay": 0, "train.batch_size": 48,
        "augment": (part("time_mask", time_width=3), part("jitter", std=1.5)), "optim.lr": 0.05}), "cepstra")
    space = space_for(odd, "cepstra")
    study = optuna.create_study()
    study.enqueue_trial(space.params_of(odd))
    assert complete_experiment(space.apply(space.suggest(study.ask()), odd, 200)) == odd
    said = " ".join(space.notes)
    assert "optim.weight_decay = 0.0 stays" in said
    assert "train.batch_size: 48" in said
    for other in random_draws(space, 20):
        experiment = complete_experiment(space.apply(other, odd, 200))
        assert experiment.optim.weight_decay == 0
        assert experiment.encoder.name != "campplus" or experiment.encoder.kwargs["blocks"] == (2, 2, 2)
        assert [item.name for item in experiment.augment if item.name in ("time_mask", "jitter")] in (
            [], ["time_mask"], ["jitter"], ["time_mask", "jitter"])
    copies = adapted(override(odd, {"augment": "speed", "train.speed_classes": True}), "waveform")
    space = space_for(copies, "waveform")
    for other in random_draws(space, 20):
        adapted(space.apply(other, copies, 200), "waveform")  # raises for classes of copies that are not made
    with pytest.raises(SettingError, match="augment"):
        space_for(adapted(override(odd, {"augment": (part("jitter"), part("jitter", std=0.3))}), "cepstra"), "cepstra")


def options(*words):
    parser = argparse.ArgumentParser()
    tune.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


COMMON = ("--experiment", "course", "--set", "train.crop_frames=4", "--set", "train.threads=1", "--set",
          "encoder.d_model=8")


def open_only_study(workspace):
    url = f"sqlite:///{workspace}/data/studies/toy_frames/course.db"
    return optuna.load_study(study_name=None, storage=open_storage(url))


def test_search_then_promote(workspace, frames_dir, capsys):
    words = ("--data", frames_dir, *COMMON, "--steps", 10)
    tune.main(options("search", *words, "--trials", 3, "--seed", 3))
    said = capsys.readouterr().out
    assert "3 of 3 trials finished" in said
    assert "the experiment itself:" in said
    rows = ledger.read()
    assert [row["stage"] for row in rows] == ["tune"] * 3
    assert rows[0]["changed"] == ""
    assert all(row["changed"] for row in rows[1:])
    for at, row in enumerate(rows):  # the line in the ledger is the same run, to the digest
        assert row["note"].startswith(f"trial {at} of toy_frames/course-")
        command = shlex.split(row["command"])
        sets = [word for before, word in itertools.pairwise(command) if before == "--set"]
        experiment = override(experiments.get("course"), parse_assignments(sets))
        store_dir = next((workspace / "data" / "cache" / "toy_frames").glob("cepstra-*"))
        assert make_plan("toy_frames", store_dir, experiment).digest == row["digest"]
    study_dir = next((workspace / "data" / "studies" / "toy_frames").glob("course-*"))
    kept = {path.name for path in (study_dir / "trials").rglob("*") if path.is_file() and path.name != ".lock"}
    assert kept == {"experiment.json", "result.json", "run.json", "log.csv"}

    study = open_only_study(workspace)  # a drawn trial shall be the best, whatever ten steps gave
    drawn = study.trials[1]
    study.add_trial(optuna.create_trial(value=1.0, params=drawn.params, distributions=drawn.distributions))
    out = workspace / "best.json"
    tune.main(options("promote", *words, "--folds", 2, "--seeds", 2, "--out", out))
    assert "over 2 fresh seeds (2 folds, 10 steps)" in capsys.readouterr().out
    promoted = experiments.get(str(out))
    assert (promoted.name, promoted.parent, promoted.folds, promoted.train.steps) == ("course_trial3", "course", 2, 10)
    assert "on 2 fresh seeds" in promoted.hypothesis
    again = ledger.read()[3:]
    assert [(row["experiment"], row["seeds"]) for row in again] == [
        ("course", "1"), ("course_trial3", "1"), ("course", "2"), ("course_trial3", "2")]
    assert again[1]["parent_group"] == again[0]["group"]
    assert again[1]["changed"].split("; ")[0] == rows[1]["changed"].split("; ")[0]
    assert f"--experiment {out}" in again[1]["command"]


@pytest.mark.parametrize("name", [name for name in experiments.names()
                                  if experiments.get(name).encoder.name in searched("encoder") | {"auto"}
                                  and experiments.get(name).features.store == "logmel"])
def test_every_experiment_can_be_searched_and_its_commands_give_its_trials_again(workspace, course_dir, name):
    question = ask(options("search", "--data", course_dir, "--experiment", name, "--set", "train.threads=1",
                           "--steps", 10))
    assert question.study_name.startswith(f"toy_course/{name}-")
    first = question.space.params_of(question.space.start)
    for drawn in (first, *random_draws(question.space, 3)):
        experiment = question.experiment_of(drawn)
        said = shlex.split(command_of(question.data, name, experiment))
        sets = [word for before, word in itertools.pairwise(said) if before == "--set"]
        plans = [make_plan("toy_course", question.store_dir, one) for one in
                 (experiment, override(experiments.get(name), parse_assignments(sets)))]
        assert plans[0].digest == plans[1].digest
        assert drawn is not first or plans[0].experiment == question.space.start


def test_parts_that_do_not_go_together_are_a_result(workspace, frames_dir, monkeypatch):
    real, plans = objective.make_plan, []

    def refusing(*arguments):
        plans.append(arguments)
        if len(plans) == 3:  # of the question, the first trial, the second
            raise SettingError("frontend.mean_norm: not beside this encoder")
        return real(*arguments)

    monkeypatch.setattr("src.search.trial.run", lambda plan, store, report: curve(plan, report, 0.5))
    monkeypatch.setattr("src.search.question.make_plan", refusing)
    monkeypatch.setattr("src.search.trial.make_plan", refusing)
    tune.main(options("search", "--data", frames_dir, *COMMON, "--steps", 100, "--trials", 2))
    second = open_only_study(workspace).trials[1]
    assert (second.value, second.user_attrs["note"]) == (0, "frontend.mean_norm: not beside this encoder")
    assert len(ledger.read()) == 1


@pytest.mark.parametrize(("more", "said"), [(("--set", "folds='all'"), "add --folds 5"),
                                            (("--folds", 2, "--out", "best"), "ends in .json")])
def test_what_cannot_be_promoted_is_told_before_anything_is_trained(workspace, frames_dir, monkeypatch, more, said):
    monkeypatch.setattr("src.search.trial.run", lambda plan, store, report: curve(plan, report, 0.5))
    words = ("--data", frames_dir, *COMMON, "--steps", 100)
    tune.main(options("search", *words, "--trials", 2))
    drawn = open_only_study(workspace).trials[1]
    open_only_study(workspace).add_trial(
        optuna.create_trial(value=1.0, params=drawn.params, distributions=drawn.distributions))
    with pytest.raises(SettingError, match=said):
        tune.main(options("promote", *words, *more))
    assert [row["stage"] for row in ledger.read()] == ["tune"] * 2


def test_another_question_is_another_study(workspace, frames_dir):
    def name(*changes, steps=10, folds=1):
        words = [word for change in ("train.crop_frames=4", *changes) for word in ("--set", change)]
        return ask(options("search", "--data", frames_dir, "--experiment", "course", "--steps", steps, "--folds", folds,
                           *words)).study_name

    assert name() == name("train.threads=1") == name("train.device=cpu")
    assert len({name(), name("optim.lr=0.01"), name(steps=11), name(folds=2), name("seed=1")}) == 5
    with pytest.raises(SettingError, match="folds"):
        name("folds=0")


def curve(plan, report, last):
    """Stand in for train.run: twenty validations that rise to `last`."""
    for step in range(5, 101, 5):
        report(0, step, last * step / 100)
    write_json(plan.directory / "result.json", {})
    return {"valid": last, "seconds": 0.0, "finished": f"{plan.digest[:8]}"}


def test_trials_that_fall_behind_are_pruned_at_equal_shares_of_their_training(workspace, frames_dir, monkeypatch):
    lasts = iter([0.5, 0.6, 0.7, 0.8, 0.9, 0.1, 0.95])
    monkeypatch.setattr("src.search.trial.run", lambda plan, store, report: curve(plan, report, next(lasts)))
    tune.main(options("search", "--data", frames_dir, *COMMON, "--steps", 100, "--trials", 7))
    trials = open_only_study(workspace).trials
    assert [trial.state for trial in trials] == [*[TrialState.COMPLETE] * 5, TrialState.PRUNED, TrialState.COMPLETE]
    assert sorted(trials[0].intermediate_values) == list(range(11))
    assert max(trials[5].intermediate_values) == 3  # not judged before three tenths
    pruned = ledger.read()[5]
    assert (pruned["status"], pruned["valid"]) == ("pruned", "")
    study_dir = next((workspace / "data" / "studies" / "toy_frames").glob("course-*"))
    assert len(list((study_dir / "trials").iterdir())) == 6
    for name in ("history", "importance", "slice"):
        assert (study_dir / f"{name}.png").stat().st_size > 5000


def test_a_diverged_trial_is_a_result_and_a_full_disk_is_not(workspace, frames_dir, monkeypatch):
    errors = [None, DivergedError("x: the loss is not finite at step 3"), SettingError("encoder: 8 heads"),
              RunError("x: the disk is full")]

    def failing(plan, store, report):
        error = errors[len(ledger.read())]
        if error:
            raise error
        return curve(plan, report, 0.5)

    monkeypatch.setattr("src.search.trial.run", failing)
    words = options("search", "--data", frames_dir, *COMMON, "--steps", 100, "--trials", 5)
    with pytest.raises(RunError, match="disk is full"):
        tune.main(words)
    study = open_only_study(workspace)
    assert [trial.value for trial in study.trials] == [0.5, 0, 0, None]
    assert study.trials[1].user_attrs["note"].startswith("x: the loss is not finite")
    assert [row["status"] for row in ledger.read()] == ["ok", "failed", "failed"]
    errors[3:] = [None, None]
    tune.main(words)
    assert [trial.state for trial in study.trials] == [*[TrialState.COMPLETE] * 3, TrialState.FAIL,
                                                       *[TrialState.COMPLETE] * 2]
    assert study.trials[4].params == study.trials[3].params


RUN = """
import argparse
from src.search import tune
parser = argparse.ArgumentParser()
tune.add_arguments(parser)
tune.main(parser.parse_args())
"""


def start_search(frames_dir, trials, *more):
    words = [sys.executable, "-c", RUN, "--data", frames_dir, *COMMON, "--steps", 20, "--workers", 2,
             "--trials", trials]
    words = [str(word) for word in (*words, *more)]
    return subprocess.Popen(words, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_finished(workspace, count):
    for _ in range(1200):
        time.sleep(0.1)
        if len(list((workspace / "data" / "studies").glob("*/*/trials/*/result.json"))) >= count:
            return
    raise AssertionError("no trial finished")


@pytest.mark.campaign
def test_search_of_two_workers_killed_in_the_middle_ends_with_exactly_n_trials(workspace, frames_dir):
    search = start_search(frames_dir, 8)
    wait_for_finished(workspace, 3)
    os.killpg(search.pid, signal.SIGKILL)
    search.wait()
    study = open_only_study(workspace)
    under_way = [trial.params for trial in study.trials if trial.state == TrialState.RUNNING]
    again = start_search(frames_dir, 8)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    finished = [trial.params for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(finished) == len({str(params) for params in finished}) == 8
    assert len(ledger.read()) == 8
    assert all(any(params.items() <= other.items() for other in finished) for params in under_way)


@pytest.mark.campaign
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_when_their_parent_does_and_the_search_goes_on(workspace, frames_dir, number):
    search = start_search(frames_dir, 8)
    wait_for_finished(workspace, 2)
    os.kill(search.pid, number)
    search.communicate(timeout=120)  # the pipe closes when the last worker has ended
    study = open_only_study(workspace)
    if number == signal.SIGKILL:  # they had nobody to tell them to stop at once: each ended its trial first
        assert TrialState.RUNNING not in [trial.state for trial in study.trials]
    assert 2 <= len(ledger.read()) < 8
    assert start_search(frames_dir, 8).wait(300) == 0
    assert len(ledger.read()) == 8


@pytest.mark.campaign
def test_timeout_ends_a_search(workspace, frames_dir):
    said, _ = start_search(frames_dir, 500, "--timeout", 8).communicate(timeout=120)
    assert "of 500 trials finished" in said
    assert "the same command goes on" in said


def test_a_batch_size_that_changes_the_steps_is_compared_all_the_same(workspace, capsys):
    experiment = adapt(experiments.get("course"), DataSummary("logmel", 2000, 8, 300))
    other = override(experiment, {"train.batch_size": 64, "train.steps": 1125, "name": "course_trial1"})
    for number, (one, valid) in enumerate([(experiment, 0.5), (experiment, 0.52), (other, 0.9), (other, 0.92)]):
        made = make_row(override(one, {"seed": number % 2}), competition="toy", run_id=f"toy/{one.name}-{number}",
                        digest=str(number), result={"train": 1.0, "valid": valid, "seconds": 1.0, "params": 1})
        ledger.append(made)
    digests = {"course": {"0", "1"}, "course_trial1": {"2", "3"}}
    assert promote._compare(digests, group(experiment)).startswith("beats its base by 0.4000")
    assert "1125 steps" in capsys.readouterr().out


def test_sessions_are_for_one_sample_rate_in_runs_and_in_searches(audio_dir, workspace):
    competition = open_competition(audio_dir)
    quick = override(experiments.get("quick"), {"features.sample_rate": 8000})
    store_dir = preprocess(competition, quick.features)
    with pytest.raises(SettingError, match=r"'session' imitates .* 8000 Hz; leave features\.sample_rate at 16000"):
        make_plan(competition.name, store_dir, quick)
    make_plan(competition.name, store_dir, override(quick, {"augment": (part("spec_augment"),)}))
    at_16, at_8 = ({dimension.key for dimension in fitting("logmel", rate)} for rate in (16000, 8000))
    assert at_8 < at_16
    assert all(key.startswith("augment.") for key in at_16 - at_8)
    assert "augment.spec_augment" in at_8
