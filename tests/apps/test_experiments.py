"""The list of experiments and the models that they stand for: nothing left out, figures and shapes as they are."""

import re
import subprocess
import sys

import pytest

from src import experiments
from src.__main__ import main
from src.apps.experiments import Data, list_all, show_model
from src.base.workspace import PROJECT_DIR
from src.ledger import file as ledger
from src.model.speaker_model import SpeakerModel, num_parameters
from src.settings.auto import DataSummary, adapt
from src.settings.config import override
from tests.ledger.test_ledger import row

LOGMEL, WAVEFORM = (DataSummary(kind, 56666, 80, 541) for kind in ("logmel", "waveform"))


def test_the_list_has_every_experiment_with_its_question_and_its_best_settings_in_each_competition(workspace, capsys):
    for seed, valid in enumerate((0.7, 0.8)):
        ledger.append(row("seed88", seed=seed, valid=valid, seconds=120.0))
        ledger.append(row("seed88", seed=seed, group="other settings", valid=0.1))
    ledger.append(row("seed88", competition="speech", valid=0.5, public=0.25, score_kind="local"))
    ledger.append(row("seed88", stage="tune", seed=9, valid=0.99))
    ledger.append(row("seed88", source="published", digest="", valid=0.98))
    ledger.append(row("course", metric="token error rate", valid=0.97))
    text = list_all(ledger.read(), 80)
    assert max(map(len, text.splitlines())) <= 80
    whole = re.sub(r"\s+", " ", text)
    for name in experiments.names():
        experiment = experiments.get(name)
        of = f" (of {experiment.parent})" if experiment.parent else ""
        assert f"{name}{of}: {experiment.hypothesis}" in whole
    assert "vowels: valid 0.7500 ± 0.0707, 2 min speech: valid 0.5000, public 0.25" in whole
    assert not re.search(r"0\.9[789]|0\.1000", text)
    assert main(["experiments", "--competition", "speech"]) == 0
    assert "vowels" not in capsys.readouterr().out


def lines_of(name, summary=LOGMEL, num_speakers=7, **changes):
    experiment = override(experiments.get(name), changes)
    dim = 40 if summary.kind == "logmel" else 0
    text = show_model(experiment, Data("here", summary, dim, num_speakers))
    return {line.split(":")[0].strip(): line for line in text}, SpeakerModel(
        adapt(experiment, summary), summary.kind, dim, num_speakers)


def number(line):
    return int(line.split()[-1].replace(",", ""))


@pytest.mark.parametrize("name", ["course", "seed88", "default", "quick", "lab_conformer_norm"])
def test_parameters_and_shapes_are_those_of_the_model(name):
    lines, model = lines_of(name)
    assert number(lines["model"]) == num_parameters(model)
    for part in ("encoder", "head"):
        assert number(lines[part]) == num_parameters(getattr(model, part))
    assert f"[1, {model.pooling.output_dim}]" in lines["pooling"]
    assert "[1, 7]" in lines["head"]
    assert f"{num_parameters(model):,} parameters" in lines["here"]
    frames = adapt(experiments.get(name), LOGMEL).train.crop_frames
    assert f"[1, {frames}, 40]" in lines["input"]


def test_layers_that_are_alike_are_one_line(workspace):
    lines, model = lines_of("seed88")
    layers = model.encoder.conformer_layers
    assert "3 x ConformerLayer" in lines["0 to 2"]
    assert number(lines["0 to 2"]) == sum(map(num_parameters, layers))
    assert "0 to 2" not in lines_of("seed88", **{"encoder.num_layers": 1})[0]


def test_a_model_of_waveforms_and_how_much_of_it_learns():
    lines, model = lines_of("hubert_freeze9", WAVEFORM, **{"encoder.size": "small", "finetune.layers": 1})
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert f"{learning:,} learn" in lines["here"]
    assert learning < num_parameters(model)
    assert "[1, 48000]" in lines["input"]


def test_the_command_says_what_an_experiment_is_and_for_whose_data(workspace, frames_dir, capsys):
    ledger.append(row("seed88", valid=0.7))
    assert main(["experiments", "seed88", "--set", "encoder.num_layers=1"]) == 0
    said = capsys.readouterr().out
    for words in (f"seed88: {experiments.get('seed88').hypothesis}", "changes of course:", "  train.steps = 6000",
                  "seed88      100", "the course's data: 600 speakers", "input: a crop of 128 frames"):
        assert words in said
    assert main(["experiments", "course", "--data", str(frames_dir)]) == 4
    assert "no store for these features; run" in capsys.readouterr().err
    assert main(["preprocess", "--data", str(frames_dir), "--experiment", "course"]) == 0
    assert main(["experiments", "course", "--data", str(frames_dir)]) == 0
    said = capsys.readouterr().out
    assert "toy_frames: 3 speakers" in said
    assert re.search(r"input: a crop of 128 frames +\[1, 128, 4\]", said)
    assert main(["experiments", "sede88"]) == 2
    assert "did you mean 'seed88'" in capsys.readouterr().err


def test_the_list_loads_no_torch():
    code = "import sys\nfrom src.__main__ import main\nmain(['experiments'])\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_DIR, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
