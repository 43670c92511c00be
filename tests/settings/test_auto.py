"""The rules that fill in "auto": each decided by the data it names, nothing left open."""

from collections import Counter

import numpy as np
import pytest

from src import experiments
from src.base import machine
from src.base.errors import SettingError
from src.settings import auto as adapt_module
from src.settings.auto import DataSummary, adapt
from src.settings.config import flatten, override
from src.settings.parts import lookup
from src.store.folds import can_deal

VOWELS = DataSummary("cepstra", 270, 30, 15)
SPEECH = DataSummary("logmel", 2000, 8, 400)
TINY = DataSummary("waveform", 40, 3, 250)


@pytest.mark.parametrize("data", [VOWELS, SPEECH, TINY])
@pytest.mark.parametrize("name", experiments.names())
def test_nothing_is_left_open(name, data):
    experiment = experiments.get(name)
    if lookup("encoder", "ecapa_tdnn" if experiment.encoder.name == "auto" else experiment.encoder.name).takes \
            == "waveform" != data.kind:
        with pytest.raises(SettingError, match="takes waveforms"):
            adapt(experiment, data)
        return
    complete = adapt(experiment, data)
    assert "auto" not in flatten(complete).values()
    assert complete.optim.warmup_steps <= complete.train.steps // 10


FEW = DataSummary("logmel", 480, 8, 350)


def test_rules_follow_the_data():
    vowels, speech, tiny = (adapt(experiments.get("default"), data) for data in (VOWELS, SPEECH, TINY))
    assert vowels.encoder.kwargs["channels"] < speech.encoder.kwargs["channels"]
    assert tiny.encoder.kwargs["channels"] == vowels.encoder.kwargs["channels"], "ten thousand frames are little"
    assert (vowels.frontend.mean_norm, speech.frontend.mean_norm) == (False, "both")
    assert (vowels.train.crop_frames, speech.train.crop_frames) == (16, 200)
    assert (vowels.folds, tiny.folds) == (5, 3), "no more folds than the smallest class has utterances"
    assert [item.name for item in vowels.augment] == ["jitter"]
    assert [item.name for item in tiny.augment] == ["waveform_session"]
    assert (vowels.train.short, speech.train.short, tiny.train.short) == ("device", "repeat", "device")


@pytest.mark.parametrize(("sizes", "groups", "folds"), [
    ([8] * 50, None, 5), ([8] * 49 + [1], None, 5), ([8] * 45 + [2] * 5, None, 5), ([3] * 50, None, 3),
    ([8] * 20 + [2] * 20, None, 2), ([8] * 10 + [1] * 3, None, 5), ([1] * 9, None, "all"), ([1] * 9 + [2], None, 2),
    ([8] * 50, 3, 3), ([8] * 50, 7, 5), ([8] * 50, 1, "all"), ([3] * 50, 4, 3)])
def test_folds_are_as_many_as_most_classes_and_the_groups_allow(monkeypatch, sizes, groups, folds):
    monkeypatch.setattr(adapt_module, "usable_cpus", lambda: 8)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    names = [""] * len(labels) if groups is None else [str(i % groups) for i in range(len(labels))]
    data = DataSummary.of("logmel", labels, np.full(len(labels), 300), 160, names,
                          lambda num_folds: can_deal(labels, names, num_folds))
    assert adapt(experiments.get("default"), data).folds == folds
    assert data.num_groups == (1 if folds == "all" else groups or len(labels))


@pytest.mark.parametrize("cpus", [2, 8])
def test_auto_chooses_folds_that_the_store_deals(monkeypatch, cpus):
    """Random sizes of classes and groups; the choice is taken to the store that refuses what cannot be."""
    monkeypatch.setattr(adapt_module, "usable_cpus", lambda: cpus)
    monkeypatch.setattr(adapt_module, "multiplies_bfloat16", lambda: False)
    rng, chosen = np.random.default_rng(0), Counter()
    for _ in range(60):
        sizes = rng.choice([1, 2, 3, 8], rng.integers(2, 12), p=rng.dirichlet([1, 1, 1, 1]))
        labels = np.repeat(np.arange(len(sizes)), sizes)
        per_class = int(rng.integers(0, 4))  # groups in each class; 0: none are known
        groups = [f"{label}-{rng.integers(per_class)}" if per_class else "" for label in labels]
        data = DataSummary.of("logmel", labels, np.full(len(labels), 9000), 160, groups,
                              lambda num_folds, labels=labels, groups=groups: can_deal(labels, groups, num_folds))
        folds = adapt(experiments.get("default"), data).folds
        chosen[folds] += 1
        assert can_deal(labels, groups, folds) if folds != "all" else not can_deal(labels, groups, 2)
    assert len(chosen) >= 4
    assert chosen["all"] > 5


@pytest.mark.parametrize(("native", "cpus", "device", "steps", "folds"), [
    (True, 2, "cpu", (600, 1500, 2812), (5, 5, 5)), (False, 2, "cpu", (600, 750, 2250), (5, 4, 4)),
    (False, 4, "cpu", (600, 1500, 2812), (5, 5, 5)), (False, 2, "cuda", (600, 1500, 2812), (5, 5, 5))])
def test_fewer_steps_and_folds_where_each_takes_long(monkeypatch, native, cpus, device, steps, folds):
    monkeypatch.setattr(adapt_module, "multiplies_bfloat16", lambda: native)
    monkeypatch.setattr(adapt_module, "usable_cpus", lambda: cpus)
    default = override(experiments.get("default"), {"train.device": device})
    adapted = [adapt(default, data) for data in (VOWELS, FEW, SPEECH)]
    assert tuple(one.train.steps for one in adapted) == steps
    assert tuple(one.folds for one in adapted) == folds
    assert adapt(override(default, {"train.steps": 3000}), SPEECH).train.steps == 3000


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_where_the_processor_multiplies_it_and_there_is_much_speech(monkeypatch, tmp_path, native):
    flags = tmp_path / "cpuinfo"
    flags.write_text(f"model name\t: AMD\nflags\t\t: fpu avx512f {'avx512_bf16' if native else 'bf16'} sse\n")
    monkeypatch.setattr(machine, "Path", lambda name: {"/proc/cpuinfo": flags}[name])
    precisions = [adapt(override(experiments.get("default"), {"train.device": device}), data).train.precision
                  for device in ("cpu", "cuda") for data in (VOWELS, SPEECH)]
    assert precisions == ["float32", "bfloat16" if native else "float32", "bfloat16", "bfloat16"]
    flags.unlink()
    assert not machine.multiplies_bfloat16(), "another system does not say"


def test_a_store_of_an_older_version_is_understood():
    old = {"kind": "cepstra", "num_utterances": 270, "smallest_class": 30, "median_frames": 15, "shortest_frames": 7}
    assert DataSummary.from_json(old) == VOWELS
    assert DataSummary.from_json(old | {"num_groups": 3}).num_groups == 3


@pytest.mark.parametrize(("key", "value", "said"), [
    ("seed", -1, r"seed=-1: must be at least 0"), ("optim.lr", -1e-3, r"optim\.lr=-0\.001: must be at least 0"),
    ("embedding.dropout", 3, r"at least 0 and at most 1"), ("optim.ema_decay", 2, r"at most 1"),
    ("train.label_smoothing", 7, r"at most 1"), ("infer.frame_budget", 0, r"at least 1"),
    ("train.threads", 0, r"at least 1"), ("name", "../../evil", r"letters, digits"),
    ("name", "a/b", r"letters, digits")])
def test_what_nothing_can_be_trained_with_is_a_wrong_setting(key, value, said):
    with pytest.raises(SettingError, match=said):
        adapt(override(experiments.get("course"), {key: value}), SPEECH)


def test_what_is_set_wins_over_the_rules():
    changes = {"encoder.channels": 32, "train.crop_frames": 20, "folds": 2, "augment": ()}
    complete = adapt(override(experiments.get("default"), changes), SPEECH)
    assert (complete.encoder.kwargs["channels"], complete.encoder.kwargs["aggregate_dim"]) == (32, 768)
    assert (complete.train.crop_frames, complete.folds, complete.augment) == (20, 2, ())
    with pytest.raises(SettingError, match="no such setting"):
        adapt(override(experiments.get("default"), {"encoder.chanels": 32}), SPEECH)


@pytest.mark.parametrize(("changes", "said"), [
    ({"train.batch_size": 0}, "train.batch_size=0: must be at least 1"), ({"folds": 0}, "folds=0: must be at least 1")])
def test_a_batch_that_cannot_be_is_told(changes, said):
    with pytest.raises(SettingError, match=said):
        adapt(override(experiments.get("default"), changes), SPEECH)
