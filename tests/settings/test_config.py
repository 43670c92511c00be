"""Experiments: strict overrides, JSON both ways, digests that change when and only when a setting does."""

from dataclasses import replace

import pytest

from src import experiments
from src.base.errors import InputError, SettingError
from src.base.files import digest
from src.settings.auto import DataSummary, adapt
from src.settings.config import flatten, from_json, override, parse_assignments, part, to_json
from src.settings.parts import complete_experiment, essential

DATA = DataSummary(kind="logmel", num_utterances=2000, smallest_class=8, median_frames=300)


@pytest.mark.parametrize(("assignment", "said"), [
    ("optim.lrr=1", "did you mean 'lr'"),
    ("optm.lr=1", "did you mean 'optim'"),
    ("encoder.dmodel=3", "did you mean 'd_model'"),
    ("encoder=conforme", "did you mean 'conformer'"),
    ("augment=noize", "did you mean 'noise'"),
    ("train.steps=many", "whole number"),
    ("train.steps=1.5", "whole number"),
    ("train.balanced=1", "true or false"),
    ("optim.lr=fast", "a finite number"),
    ("optim.lr=1e999", "a finite number"),
    ("optim.name=sgd", "'adamw'"),
    ("encoder.d_model=80.5", "like the default"),
    ("folds=some", "'all'"),
    ("train", "write key=value"),
])
def test_a_mistyped_setting_stops_with_the_nearest_valid_name(assignment, said):
    with pytest.raises(SettingError, match=said):
        complete_experiment(override(experiments.get("course"), parse_assignments([assignment])))


def test_overrides_reach_fields_parts_and_augmentations():
    base = experiments.get("course")
    changes = {"optim.lr": 3e-4, "encoder.num_layers": 2, "pooling": "max", "augment": [part("noise")],
               "augment.noise.prob": 0.25, "folds": "all"}
    changed = override(base, changes)
    assert changed.optim.lr == 3e-4
    assert changed.encoder.kwargs["num_layers"] == 2
    assert changed.encoder.kwargs["d_model"] == 80
    assert changed.pooling.name == "max"
    assert flatten(changed)["augment.noise.prob"] == 0.25
    assert override(changed, {"augment.noise": False}).augment == ()
    assert base.optim.lr == 1e-3


@pytest.mark.parametrize("name", experiments.names())
def test_every_experiment_is_complete_and_survives_json(name):
    named = experiments.get(name)
    experiment = adapt(named, replace(DATA, kind="waveform") if named.features.store == "waveform" else DATA)
    assert experiment.hypothesis
    assert from_json(to_json(experiment)) == experiment
    assert "auto" not in flatten(experiment).values()


def test_the_digest_changes_when_and_only_when_a_used_setting_does():
    def digest_of(experiment):
        return digest(essential(adapt(experiment, DATA)))

    base = digest_of(experiments.get("course"))
    same = override(experiments.get("course"), {"encoder.norm_first": False, "name": "other", "hypothesis": "new"})
    assert digest_of(same) == base, "a default spelled out, a name, a hypothesis are not settings"
    for key, value in {"seed": 1, "optim.lr": 2e-3, "encoder.d_model": 96, "train.steps": 7}.items():
        assert digest_of(override(experiments.get("course"), {key: value})) != base, key
    unvalidated = [digest_of(override(experiments.get("course"), {"folds": "all", "train.valid_every": n}))
                   for n in (10, 20)]
    assert unvalidated[0] == unvalidated[1], "nothing is validated, so how often does not matter"


def test_an_experiment_file_is_read_strictly(tmp_path):
    file = tmp_path / "best.json"
    for text, error in (("{", InputError), ("[]", InputError), ('{"name": "x"}', SettingError)):
        file.write_text(text)
        with pytest.raises(error):
            experiments.get(str(file))
    with pytest.raises(InputError, match="no-such"):
        experiments.get(str(tmp_path / "no-such.json"))


def test_a_waveform_encoder_refuses_a_store_without_waveforms(monkeypatch):
    from dataclasses import replace

    from src.settings import auto as module
    from src.settings.parts import lookup

    monkeypatch.setattr(module, "lookup", lambda slot, name: replace(lookup(slot, name), takes="waveform"))
    with pytest.raises(SettingError, match=r"features\.store=waveform"):
        adapt(experiments.get("course"), DATA)
