"""Validation on degraded copies: what is stored, who hears what, the figures by hand, and what is refused."""

import argparse
import json
import shutil
import time

import numpy as np
import pytest
import torch

from src import experiments
from src.apps import conditions as command
from src.base.errors import InputError, RunError, SettingError
from src.competition.open import open_competition
from src.model.frontend import LogMel
from src.preprocess import preprocess
from src.runs.folder import Run
from src.runs.plan import make_plan
from src.settings.config import Features, override, part
from src.shift import conditions, degrade
from src.shift import degraded_store as degraded
from src.shift.conditions import MIXTURE
from src.shift.degraded_store import degraded_store
from src.store import audio_file as audio
from src.store import writer as store_writer
from src.store.store import Store
from src.training.evaluate import predict
from src.training.run import run
from tests.support.competitions import voice, write_audio

pytestmark = pytest.mark.usefixtures("workspace")
TINY = {"encoder": part("transformer", d_model=8, num_layers=1, num_heads=1, feed_forward_dim=8), "train.steps": 4,
        "train.batch_size": 4, "train.crop_frames": 20, "train.threads": 1, "train.device": "cpu", "folds": 3}


def trained(directory, **changes):
    """Train a tiny run on a competition and return its folder and its store."""
    competition = open_competition(directory)
    experiment = override(experiments.get("course"), TINY | changes)
    plan = make_plan(competition.name, preprocess(competition, experiment.features), experiment)
    store = Store.open(plan.store_dir)
    run(plan, store)
    return plan.directory, store


@pytest.fixture(autouse=True)
def quick_codecs(monkeypatch):
    """Leave out the coders, most of the time; test_degrade.py hears them."""
    monkeypatch.setattr(degrade, "_coded", lambda waveform, *_, **__: waveform)


def of(store, row):
    return store.frames[store.offsets[row] : store.offsets[row] + store.num_frames[row]]


# The store ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"store": "waveform", "sample_rate": 8000}], ids=["logmel", "waveform"])
def test_the_store_holds_every_training_utterance_in_every_condition(audio_dir, changes):
    (audio_dir / "train" / "carl" / "0.wav").write_bytes(b"unusable")  # skipped there, so absent here
    features, competition = Features(**changes), open_competition(audio_dir)
    clean = Store.open(preprocess(competition, features))
    store = Store.open(degraded_store(competition, clean))
    expected = [(f"{condition}/{clean.utt_ids[row]}", clean.labels[row]) for row in clean.train_rows
                for condition in degrade.CONDITIONS]
    assert list(zip(store.utt_ids, store.labels)) == expected
    assert len(expected) == 17 * 7
    assert (store.kind, store.dim, store.speakers, store.settings) == (
        clean.kind, clean.dim, clean.speakers, clean.settings)

    heard = {utt_id: audio.standardise(*audio.decode((audio_dir / utt_id).read_bytes()), Features()).numpy()
             for utt_id in (clean.utt_ids[row] for row in clean.train_rows)}
    for row in (0, 3, 7 * 8 + 1, 7 * 16 + 6):
        condition, _, utt_id = store.utt_ids[row].partition("/")
        speaker = utt_id.split("/")[1]
        generator = degrade.generator(condition, utt_id)
        voices = [heard[other] for other in voice_order(clean) if other.split("/")[1] != speaker]
        degraded = degrade.degrade(heard[utt_id], condition, generator, voices)
        waveform = audio.standardise(degraded, 16000, features)
        if clean.kind == "waveform":
            np.testing.assert_array_equal(of(store, row), audio.to_int16(waveform).numpy())
        else:
            np.testing.assert_array_equal(of(store, row), LogMel(features)(waveform[None])[0].half().numpy())


def voice_order(clean):
    """Return the ids of the babble's voices: one of every speaker in turn, in a fixed shuffle."""
    shuffled = np.random.default_rng(0).permutation(clean.train_rows)
    queues = {speaker: [row for row in shuffled if clean.labels[row] == speaker] for speaker in range(3)}
    turns = []
    while any(queues.values()):
        heads = [queue.pop(0) for queue in queues.values() if queue]
        turns += sorted(heads, key=shuffled.tolist().index)
    return [clean.utt_ids[row] for row in turns]


def test_babble_is_of_many_speakers_and_never_the_utterance_s_own(audio_dir, monkeypatch):
    monkeypatch.setattr(degraded, "NUM_VOICES", 4)
    monkeypatch.setattr(degraded, "VOICE_S", 0.1)
    for take in range(20):
        write_audio(audio_dir / "train" / "anna" / f"more{take}.wav", voice(0, 20 + take, 0.3))
    competition, given = open_competition(audio_dir), []
    clean = Store.open(preprocess(competition, Features()))
    monkeypatch.setattr(degrade, "degrade", lambda waveform, *_: given.append(_[-1]) or waveform)
    reader = degraded._DegradedReader(competition, clean)
    assert {clean.labels[row] for row in reader.voice_rows} == {0, 1, 2}
    assert len(reader.voice_rows) == 4
    assert all(len(waveform) == 1600 for waveform in reader.voices)
    for row in clean.train_rows:
        given.clear()
        reader.read(np.array([row]))
        own = [clean.labels[other] == clean.labels[row] for other in reader.voice_rows]
        assert {len(voices) for voices in given} == {own.count(False)}


def test_a_killed_making_goes_on_and_gives_the_same_bytes(audio_dir, monkeypatch):
    monkeypatch.setattr(degraded, "CHUNK_UTTERANCES", 3)
    competition = open_competition(audio_dir)
    clean = Store.open(preprocess(competition, Features()))
    whole = degraded_store(competition, clean)
    files = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert set(files) == {"frames.bin", "table.csv", "skipped.csv", "meta.json"}
    shutil.rmtree(whole)
    append, read, done = store_writer.StoreWriter.append, degraded._DegradedReader.read, []

    def stopping(self, chunk, parts):
        if len(self.finished) == 2:
            raise KeyboardInterrupt
        append(self, chunk, parts)

    with monkeypatch.context() as patch:
        patch.setattr(store_writer.StoreWriter, "append", stopping)
        with pytest.raises(KeyboardInterrupt):
            degraded_store(competition, clean)
    assert not whole.exists()
    preprocess(competition, Features(num_mels=20))  # another store's making leaves the half made one alone
    monkeypatch.setattr(degraded._DegradedReader, "read", lambda self, rows: done.extend(rows) or read(self, rows))
    assert degraded_store(competition, clean) == whole
    assert sorted(done) == list(range(6, 18))
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == files
    degraded_store(competition, clean)
    assert len(done) == 12
    monkeypatch.setattr(degrade, "VERSION", 0)
    assert degraded_store(competition, clean) != whole


def test_few_chunks_are_read_ahead_of_the_writer(audio_dir, monkeypatch):
    monkeypatch.setattr(degraded, "CHUNK_UTTERANCES", 1)
    monkeypatch.setattr(degraded, "usable_cpus", lambda: 2)
    competition = open_competition(audio_dir)
    clean = Store.open(preprocess(competition, Features()))
    append, read, started, ahead = store_writer.StoreWriter.append, degraded._DegradedReader.read, [], []

    def waiting(self, chunk, parts):
        if not ahead:
            time.sleep(1)  # in which the threads could read everything
        ahead.append(len(started) - len(self.finished))
        append(self, chunk, parts)

    monkeypatch.setattr(store_writer.StoreWriter, "append", waiting)
    monkeypatch.setattr(degraded._DegradedReader, "read", lambda self, rows: started.append(rows) or read(self, rows))
    degraded_store(competition, clean)
    assert len(started) == len(ahead) == 18
    assert max(ahead) <= 4, "one for each thread, one to be written, one that waits"


# The evaluation -------------------------------------------------------------------------------------------------------


def test_every_fold_hears_its_own_held_out_utterances_and_the_figures_add_up(audio_dir, monkeypatch, capsys):
    run_dir, clean = trained(audio_dir)
    calls = []

    def spy(model, store, rows, train, infer):
        logits = predict(model, store, rows, train, infer)
        calls.append((model.head.state_dict(), [store.utt_ids[row] for row in rows], logits.argmax(1),
                      store.labels[rows]))
        return logits

    monkeypatch.setattr(conditions, "predict", spy)
    result = conditions.evaluate(Run(run_dir), audio_dir)
    assert list(result) == ["version", "store", "clean", *degrade.CONDITIONS, "shifted"]
    assert len(calls) == 3 * 8
    right = dict.fromkeys(MIXTURE, 0)
    for i, (weights, utt_ids, predicted, labels) in enumerate(calls):
        fold, condition = i // 8, ("clean", *degrade.CONDITIONS)[i % 8]
        valid = [clean.utt_ids[row] for row in clean.folds(3)[fold][1]]
        assert utt_ids == (valid if condition == "clean" else [f"{condition}/{utt_id}" for utt_id in valid])
        saved = torch.load(run_dir / f"fold_{fold}" / "model.pt", weights_only=True)["model"]
        assert all(torch.equal(value, saved[f"head.{name}"]) for name, value in weights.items())
        right[condition] += int((predicted == labels).sum())
    for condition, num_right in right.items():
        assert result[condition] == {"num_right": num_right, "num_valid": 18}
    assert result["clean"]["num_right"] == round(18 * json.loads((run_dir / "result.json").read_text())["valid"])
    by_hand = sum(MIXTURE[condition] * num_right / 18 for condition, num_right in right.items())
    assert result["shifted"] == pytest.approx(by_hand, abs=1e-12)
    assert json.loads((run_dir / "conditions.json").read_text()) == result

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.main(parser.parse_args([run_dir.name[:-2], "--data", str(audio_dir)]))
    assert len(calls) == 3 * 8, "what was done is read, not done again"
    *_, first, second, expected = capsys.readouterr().out.splitlines()
    header, row = first.split(), second.split()
    assert expected.startswith(f"toy_audio/{run_dir.name}: expected on the test part: ")
    assert conditions.expect(Run(run_dir), audio_dir).held_out == right["clean"] / 18, "too few to be told apart"
    assert header == ["run", *MIXTURE, "shifted"]
    assert row == [f"toy_audio/{run_dir.name}", *(f"{right[c] / 18:.4f}" for c in MIXTURE), f"{by_hand:.4f}"]

    with monkeypatch.context() as patch:  # another mixture counts nothing again
        patch.setattr(conditions, "MIXTURE", {condition: float(condition == "noise") for condition in MIXTURE})
        assert conditions.evaluate(Run(run_dir), audio_dir)["shifted"] == right["noise"] / 18
        assert json.loads((run_dir / "conditions.json").read_text())["shifted"] == right["noise"] / 18
        assert len(calls) == 3 * 8
    monkeypatch.setattr(degraded, "VERSION", 0)
    conditions.evaluate(Run(run_dir), audio_dir)
    assert len(calls) == 6 * 8


def test_a_run_of_one_fold_and_of_waveforms_is_evaluated_too(audio_dir):
    run_dir, _ = trained(audio_dir, folds=1, **{"features.store": "waveform"})
    result = conditions.evaluate(Run(run_dir), audio_dir)
    assert {result[condition]["num_valid"] for condition in MIXTURE} == {4}


def test_the_mixture_is_that_of_the_sessions():
    assert set(MIXTURE) == {"clean", *degrade.CONDITIONS}
    assert sum(MIXTURE.values()) == pytest.approx(1)
    p = degrade.EFFECT_PROBS
    neither = 1 - p["noise"] - p["babble"]
    none = (1 - p["reverberation"]) * neither * (1 - p["telephone"]) * (1 - p["bitrate"])
    alone = {name: none * p[name] / (neither if name in ("noise", "babble") else 1 - p[name]) for name in p}
    expected = {"clean": 0.3, "equaliser": 0.7 * none, **{name: 0.7 * share for name, share in alone.items()}}
    expected["mixed"] = 1 - sum(expected.values())
    assert expected == pytest.approx(MIXTURE, abs=0.002)


# What is refused ------------------------------------------------------------------------------------------------------


def test_what_cannot_be_evaluated_says_why(audio_dir, course_dir, workspace):
    run_dir, _ = trained(course_dir)
    with pytest.raises(InputError, match=r"toy_course: only audio can be degraded.* comes as logmel"):
        conditions.evaluate(Run(run_dir), course_dir)
    run_dir, _ = trained(audio_dir, folds="all")
    with pytest.raises(SettingError, match=r"toy_audio/course-\w+: trained on every utterance \(folds=all\)"):
        conditions.evaluate(Run(run_dir), audio_dir)
    run_dir, _ = trained(audio_dir, folds=1)
    write_audio(audio_dir / "train" / "anna" / "new.wav", voice(0, 9, 0.3))
    with pytest.raises(InputError, match=r"toy_audio: not what toy_audio/course-\w+ was trained on"):
        conditions.evaluate(Run(run_dir), audio_dir)
    (run_dir / "fold_0" / "model.pt").rename(run_dir / "model.pt")
    with pytest.raises(SettingError, match=r"no fold_0/model\.pt, so it holds no speaker model"):
        conditions.evaluate(Run(run_dir), audio_dir)
    (run_dir / "result.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        conditions.evaluate(Run(run_dir), audio_dir)
    (run_dir.parent / "ensemble-12345678").mkdir()
    with pytest.raises(SettingError, match=r"ensemble-12345678: not a run of one model"):
        conditions.evaluate(Run(run_dir.parent / "ensemble-12345678"), audio_dir)
    assert not list(workspace.rglob("conditions*"))
