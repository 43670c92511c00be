"""The command line's settings: declared once, applied in one order, and checked before anything is read."""

import argparse
from pathlib import Path

import pytest

from src import experiments
from src.base.errors import SettingError
from src.settings.arguments import add_arguments, changes_of, resolve

SRC = Path(__file__).parents[2] / "src"


def parsed(*words, **changes):
    parser = argparse.ArgumentParser()
    add_arguments(parser, "data", "experiment", "set", "smoke", **changes)
    return parser.parse_args(words)


def test_defaults_then_set_then_smoke_are_applied():
    named = experiments.get("seed88")
    assert resolve(parsed(), named) == named
    options = parsed("--set", "train.steps=70", "--set", "optim.lr=1e-2")
    found = resolve(options, named, {"train.steps": 9, "train.batch_size": 7})
    assert (found.train.steps, found.optim.lr, found.train.batch_size, found.folds) == (70, 0.01, 7, 5)
    cut = resolve(parsed("--set", "train.steps=70", "--set", "optim.lr=1e-2", "--smoke"), named)
    assert (cut.train.steps, cut.train.valid_every, cut.folds, cut.optim.lr) == (30, 15, 1, 0.01)
    assert changes_of(options) == {"train.steps": 70, "optim.lr": 0.01}
    assert changes_of(parsed()) == {}, "the list of another command line is not this one's"


@pytest.mark.parametrize(("assignment", "message"), [
    ("optim.lr", "write key=value"), ("optim.rl=1", "unknown setting 'rl'.*lr"), ("train.batch_size=0", "at least 1"),
    ("encoder.nom_heads=2", "'conformer' has no such setting.*num_heads"), ("pooling=maen", "unknown part.*mean"),
    ("encoder.num_heads=two", "is not a int"), ("name=a/b", "files are called so")])
def test_what_is_mistyped_or_out_of_bounds_is_refused(assignment, message):
    with pytest.raises(SettingError, match=message):
        resolve(parsed("--set", assignment), experiments.get("seed88"))


def test_a_command_takes_some_of_the_arguments_and_its_own_defaults(capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser, "set", data={"required": True, "help": "a competition with audio"})
    assert vars(parser.parse_args(["--data", "x"])) == {"data": "x", "set": []}
    assert parsed(experiment={"default": "wav2vec2"}).experiment == "wav2vec2"
    assert parsed().experiment == "default"
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert "--data" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["data", "experiment", "set", "smoke"])
def test_one_file_declares_and_reads_them(name):
    texts = {path.relative_to(SRC).as_posix(): path.read_text() for path in SRC.rglob("*.py")}
    assert [path for path, text in texts.items() if f'add_argument("--{name}"' in text] == []
    readers = {path for path, text in texts.items() if "parse_assignments(" in text}
    assert readers == {"settings/config.py", "settings/arguments.py"}
