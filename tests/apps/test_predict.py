"""Who speaks in new recordings: the run's own answers again, timelines, refusals, and files that cannot be read."""

import argparse
import csv
import json
import os
import shutil

import numpy as np
import pytest
import soundfile
import torch

from src import experiments
from src.apps.predict import command as predict
from src.base.errors import InputError, RunError, SettingError
from src.base.files import read_json, write_json
from src.competition.open import open_competition
from src.ensemble import blend
from src.preprocess import preprocess
from src.runs.folder import Run
from src.runs.logits import log_softmax, read_logits
from src.runs.plan import make_plan
from src.settings.config import override, part
from src.store.store import Store
from src.training.run import run as train
from tests.support.competitions import SPEAKERS, voice, write_audio

TINY = {"encoder": part("transformer", d_model=16, num_heads=2, feed_forward_dim=32), "train.steps": 60,
        "train.batch_size": 8, "train.crop_frames": 30, "train.threads": 1, "train.device": "cpu", "folds": 2,
        "optim.lr": 5e-3, "frontend.mean_norm": True}


def trained(directory, **changes):
    """Train a tiny run and return its folder."""
    competition = open_competition(directory)
    experiment = override(experiments.get("course"), TINY | changes)
    plan = make_plan(competition.name, preprocess(competition, experiment.features), experiment)
    train(plan, Store.open(plan.store_dir))
    return plan.directory


def call(*arguments):
    """Run `predict` with these arguments."""
    parser = argparse.ArgumentParser()
    predict.add_arguments(parser)
    predict.main(parser.parse_args([str(argument) for argument in arguments]))


def answers(capsys, *arguments):
    """Return what `predict --json` prints."""
    capsys.readouterr()
    call("--json", *arguments)
    return json.loads(capsys.readouterr().out)


def expected(run_dir):
    """Return the run's test log-probabilities, averaged and tempered by hand."""
    run = Run.open(f"{run_dir.parent.name}/{run_dir.name}")
    rows, logits = run.held_out()
    from src.runs.calibration import fit_temperature

    temperature = fit_temperature(logits, Store.open(run.store_dir()).labels[rows])
    folds = [torch.from_numpy(read_logits(fold.test_path)[1]).double().log_softmax(1) for fold in run.folds]
    return (sum(folds) / len(folds) / temperature).softmax(1).numpy(), temperature, len(rows)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A workspace with an audio competition and a run on its log-mels."""
    root = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEAKER_ID_WORKSPACE", str(root))
        directory = root / "toy"
        for i, name in enumerate(SPEAKERS):
            (directory / "train" / name).mkdir(parents=True)
            for take in range(6):
                write_audio(directory / "train" / name / f"{take}.wav", voice(i, take, 0.5 + 0.05 * take))
        (directory / "test").mkdir()
        for take, (ending, rate) in enumerate([("wav", 16000), ("flac", 22050), ("opus", 48000), ("mp3", 44100)]):
            write_audio(directory / "test" / f"t{take}.{ending}", voice(take % 3, 10 + take, 0.6, rate), rate)
        yield root, trained(directory)


@pytest.fixture
def toy(home, monkeypatch):
    """The folder of the audio competition, its workspace in use."""
    monkeypatch.setenv("SPEAKER_ID_WORKSPACE", str(home[0]))
    return home[0] / "toy"


@pytest.fixture
def run_dir(home):
    """The folder of the run on it."""
    return home[1]


def probabilities(content):
    """Return (N, C) of a JSON answer, the speakers in the order of their index."""
    return np.array([[next(t["probability"] for t in file["top"] if t["speaker"] == name) for name in SPEAKERS]
                     for file in content["files"]])


def test_new_audio_is_answered_as_the_run_answered_its_test_set(toy, run_dir, capsys):
    content = answers(capsys, toy / "test", "--run", f"toy/{run_dir.name}")
    truth, temperature, num_held_out = expected(run_dir)
    assert [file["file"][-8:].split("/")[-1][:2] for file in content["files"]] == ["t0", "t1", "t2", "t3"]
    np.testing.assert_allclose(probabilities(content), truth, atol=2e-5)
    assert (content["temperature"], content["calibrated_on"]) == (temperature, num_held_out)
    assert num_held_out == 18
    assert content["none_of_them"] is None
    assert content["skipped"] == []


def test_the_course_pt_files_and_audio_are_answered_by_a_run_on_log_mels(course_dir, workspace, capsys):
    run_dir = trained(course_dir, **{"train.steps": 12})
    names = [item["feature_path"] for item in read_json(course_dir / "testdata.json")["utterances"]]
    content = answers(capsys, *(course_dir / name for name in names), "--run", run_dir.name[:9])
    truth = expected(run_dir)[0][:, [1, 2, 0]]  # the mapping's order is carl, anna, bert
    np.testing.assert_allclose(probabilities(content), truth, atol=2e-5)
    write_audio(workspace / "new.wav", voice(0, 50, 1.0))
    np.save(workspace / "new.npy", torch.load(course_dir / names[0]).numpy())
    content = answers(capsys, workspace / "new.wav", workspace / "new.npy", "--data", "toy_course")
    np.testing.assert_allclose(probabilities(content)[1], truth[0], atol=2e-5)
    bad = {"code.pt": {"a": 1}, "wide.pt": torch.zeros(20, 41), "half.pt": torch.zeros(20, 40).half(),
           "nan.pt": torch.full((20, 40), torch.nan)}
    for name, value in bad.items():
        torch.save(value, workspace / name)
    with open(workspace / "archive.npy", "wb") as file:
        np.savez(file, a=np.zeros((20, 40), np.float32))
    (workspace / "torn.pt").write_bytes((course_dir / names[0]).read_bytes()[:900])
    bad["archive.npy"] = None
    with pytest.raises(InputError, match="6 of 7 files could not be answered") as caught:
        call(*(workspace / name for name in (*bad, "torn.pt", "new.npy")), "--data", "toy_course")
    assert all(f"{name}: " in str(caught.value) for name in (*bad, "torn.pt"))


def test_frames_without_a_rate_are_answered_from_npy_and_audio_is_refused(frames_dir, workspace, capsys):
    run_dir = trained(frames_dir, **{"train.steps": 12})
    frames = np.load(frames_dir / "frames.npy")[-10:]  # test_4 has ten frames, the last in the table
    np.save(workspace / "new.npy", frames)
    write_audio(workspace / "new.wav", voice(0, 50, 1.0))
    capsys.readouterr()
    with pytest.raises(InputError, match=r"new\.wav: toy_frames/course-\w+ takes frames of 4 values, no audio"):
        call(workspace / "new.wav", workspace / "new.npy", "--data", "toy_frames", "--json")
    content = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(probabilities(content), expected(run_dir)[0][4:], atol=2e-5)
    assert content["files"][0]["length_s"] is None
    assert [file["file"] for file in content["skipped"]] == [str(workspace / "new.wav")]


def test_a_run_on_waveforms_answers_as_it_answered_its_test_set(toy, capsys):
    run_dir = trained(toy, **{"features.store": "waveform", "train.steps": 12, "infer.crops": 2})
    content = answers(capsys, toy / "test", "--run", f"toy/{run_dir.name}")
    np.testing.assert_allclose(probabilities(content), expected(run_dir)[0], atol=2e-5)
    np.save(toy.parent / "frames.npy", np.zeros((20, 40), np.float32))
    with pytest.raises(InputError, match="takes audio"):
        call(toy.parent / "frames.npy", "--run", f"toy/{run_dir.name}")


def test_a_long_recording_is_a_timeline_of_who_speaks_when(toy, run_dir, tmp_path, capsys):
    turns = [(0, 12), (2, 9), (0, 6)]
    write_audio(tmp_path / "talk.wav", np.concatenate([voice(s, 90 + i, t) for i, (s, t) in enumerate(turns)]))
    content = answers(capsys, tmp_path / "talk.wav", "--run", f"toy/{run_dir.name}",
                      "--csv", tmp_path / "out.csv")
    timeline = content["files"][0]["timeline"]
    assert [(s["start_s"], s["end_s"], s["speaker"]) for s in timeline] == [
        (0, 12, "anna"), (12, 21, "carl"), (21, 27, "anna")]
    assert content["files"][0]["top"] == [{"speaker": "anna", "share": pytest.approx(18 / 27, abs=1e-6)},
                                          {"speaker": "carl", "share": pytest.approx(9 / 27, abs=1e-6)}]
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "start_s", "end_s", "speaker", "probability"]
    assert [row[1:4] for row in rows[1:]] == [["0.000", "12.000", "anna"], ["12.000", "21.000", "carl"],
                                              ["21.000", "27.000", "anna"]]
    call(tmp_path / "talk.wav", "--run", f"toy/{run_dir.name}")
    said = capsys.readouterr().out
    assert "0:12.0 to   0:21.0" in said
    assert "27.0 s, shares of the time: anna 0.667, carl 0.333" in said
    call(tmp_path / "talk.wav", "--run", f"toy/{run_dir.name}", "--threshold", 1)
    said = capsys.readouterr().out
    assert "shares of the time: none of them 1.000" in said
    assert "0:00.0 to   0:27.0" in said


def test_where_nothing_sounds_nobody_speaks(toy, run_dir, tmp_path, capsys):
    muted = np.concatenate([voice(0, 95, 12), np.zeros(12 * 16000, np.float32), voice(2, 96, 12)])
    write_audio(tmp_path / "muted.wav", muted)
    write_audio(tmp_path / "silence.wav", np.zeros(16000, np.float32))
    with pytest.raises(InputError, match=r"1 of 2 files .*\n.*silence\.wav: holds nothing but silence"):
        call(tmp_path, "--run", f"toy/{run_dir.name}", "--json")
    (answer,) = json.loads(capsys.readouterr().out)["files"]
    assert [(s["start_s"], s["end_s"], s["speaker"]) for s in answer["timeline"]] == [
        (0, 12, "anna"), (12, 24, None), (24, 36, "carl")]
    assert {item["speaker"]: item["share"] for item in answer["top"]} == pytest.approx(
        dict.fromkeys(("anna", None, "carl"), 1 / 3), abs=1e-6)


def test_audio_that_is_not_read_is_named_and_linked_folders_are_followed_once(toy, run_dir, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "far").mkdir()
    write_audio(tmp_path / "far" / "a.wav", voice(1, 70, 0.7))
    (folder / "link").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "loop").symlink_to(folder)
    (folder / "b.m4a").write_bytes(b"\0\0\0 ftypM4A ")
    with pytest.raises(InputError, match=r"1 of 2 files could not be answered:\n.*b\.m4a: cannot be decoded"):
        call(folder, "--run", f"toy/{run_dir.name}")
    assert f"{folder / 'link' / 'a.wav'}: bert" in capsys.readouterr().out


def test_every_file_of_a_folder_is_answered_known_to_be_no_audio_or_named(toy, run_dir, tmp_path, capsys):
    for name in ("a.wav", "b.wave", "c.mpga", "@eaDir/a.wav"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(tmp_path / "a.wav", voice(1, 70, 0.7))
        (tmp_path / "a.wav").rename(tmp_path / "in" / name)
    for name in ("notes.txt", "voice", "x.wav.part", ".hidden"):
        (tmp_path / "in" / name).touch()
    call(tmp_path / "in", "--run", f"toy/{run_dir.name}", "--json")
    said = capsys.readouterr()
    assert [file["file"].rpartition("/")[2] for file in json.loads(said.out)["files"]] == ["a.wav", "b.wave", "c.mpga"]
    (line,) = [line for line in said.err.splitlines() if "left out" in line]
    assert all(name in line for name in ("@eaDir", "voice", "x.wav.part", "(3)"))
    assert "notes" not in line
    (tmp_path / "in" / "d.3gp").touch()
    with pytest.raises(InputError, match=r"1 of 4 files could not be answered:\n.*d\.3gp"):
        call(tmp_path / "in", "--run", f"toy/{run_dir.name}")


def test_the_competition_is_named_as_the_other_stages_name_it(toy, run_dir, tmp_path, monkeypatch, capsys):
    for data in (toy, toy / ".", f"{toy}/"):
        call(toy / "test" / "t0.wav", "--data", data)
        assert "toy/course-" in capsys.readouterr().out
    monkeypatch.chdir(toy)
    call("test/t0.wav", "--data", ".")
    (tmp_path / "my toy").mkdir()
    with pytest.raises(InputError, match="my toy: no competition is recognised here"):
        call(toy / "test" / "t0.wav", "--data", tmp_path / "my toy")
    (tmp_path / "my toy").rmdir()
    with pytest.raises(SettingError, match="no finished run of 'my_toy'"):
        call(toy / "test" / "t0.wav", "--data", tmp_path / "my toy")


def test_a_file_s_name_need_not_be_utf_8(toy, run_dir, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9t\xe9.wav")
    write_audio(tmp_path / "a.wav", voice(1, 70, 0.7))
    os.rename(tmp_path / "a.wav", path)
    call(path, "--run", f"toy/{run_dir.name}", "--json", "--csv", tmp_path / "out.csv")
    assert "\\udce9t\\udce9.wav,0.000,0.700,bert" in (tmp_path / "out.csv").read_text()
    with pytest.raises(SettingError, match="a folder; name a file"):
        call(path, "--run", f"toy/{run_dir.name}", "--csv", tmp_path)


def test_files_that_cannot_be_read_are_named_and_the_others_answered(toy, run_dir, tmp_path, capsys):
    write_audio(tmp_path / "good.wav", voice(1, 77, 0.7))
    (tmp_path / "torn.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:5000])
    (tmp_path / "text.flac").write_text("no audio")
    soundfile.write(tmp_path / "nan.wav", np.full(1600, np.nan, np.float32), 16000, subtype="FLOAT")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("not looked at")
    bad = ["torn.wav", "text.flac", "nan.wav", "gone.wav", "empty"]
    with pytest.raises(InputError, match="5 of 6 files") as caught:
        call(tmp_path, tmp_path / "gone.wav", tmp_path / "empty", "--run", f"toy/{run_dir.name}")
    assert caught.value.exit_code == 3
    assert all(str(tmp_path / name) in str(caught.value) for name in bad)
    assert "notes.txt" not in str(caught.value)
    assert f"{tmp_path / 'good.wav'}: bert" in capsys.readouterr().out


def test_nobody_is_refused_until_a_threshold_is_given_or_measured(toy, run_dir, capsys):
    wav = toy / "test" / "t0.wav"
    call(wav, "--run", f"toy/{run_dir.name}")
    said = capsys.readouterr().out
    assert "everyone is taken for one of the known speakers" in said
    assert f"open-set toy/{run_dir.name}" in said
    call(wav, "--run", f"toy/{run_dir.name}", "--threshold", 1)
    assert "t0.wav: none of them (anna" in capsys.readouterr().out
    table = {"threshold": [0.0, 0.5, 1.0], "known_refused": [0.0, 0.1, 1.0], "unknown_accepted": [1.0, 0.2, 0.0]}
    found = {"equal_error_rate": 0.05, "known_refused": 0.04, "unknown_accepted": 0.06, "table": table}
    scores = {"probability": {"threshold": 0.5, **found}, "energy": {"threshold": 1e9, **found}}
    temperature = answers(capsys, wav, "--run", f"toy/{run_dir.name}")["temperature"]
    try:
        for score, refused in (("probability", False), ("energy", True)):
            write_json(run_dir / "open_set.json", {"score": score, "num_left_out": 3, "temperature": temperature,
                                                   "scores": scores})
            content = answers(capsys, wav, "--run", f"toy/{run_dir.name}")
            assert (content["files"][0]["timeline"][0]["speaker"] is None) == refused
            assert "4.0% of known" in content["none_of_them"]["rates"]
            assert "6.0% of unknown" in content["none_of_them"]["rates"]
        rates = answers(capsys, wav, "--run", f"toy/{run_dir.name}", "--threshold", 0.75)["none_of_them"]["rates"]
        assert "55.0% of known" in rates, "between two rows of the table"
        assert "10.0% of unknown" in rates
    finally:
        (run_dir / "open_set.json").unlink()


def test_without_held_out_utterances_it_says_that_nothing_is_calibrated(toy, capsys):
    run_dir = trained(toy, **{"train.steps": 12, "folds": "all"})
    content = answers(capsys, toy / "test" / "t0.wav", "--run", f"toy/{run_dir.name}")
    assert (content["temperature"], content["calibrated_on"]) == (1.0, 0)
    call(toy / "test" / "t0.wav", "--data", "toy")  # the newest run is this one
    said = capsys.readouterr().out
    assert run_dir.name in said
    assert "not calibrated" in said


def test_a_run_whose_store_is_gone_answers_uncalibrated(toy, run_dir, monkeypatch, capsys):
    monkeypatch.setenv("SPEAKER_ID_WORKSPACE", str(toy.parent / "elsewhere"))
    shutil.copytree(run_dir, toy.parent / "elsewhere" / "data" / "runs" / "toy" / run_dir.name)
    content = answers(capsys, toy / "test" / "t0.wav", "--data", "toy")
    assert (content["temperature"], content["calibrated_on"]) == (1.0, 0)
    assert content["files"][0]["top"][0]["speaker"] == "anna"


@pytest.mark.parametrize(("arguments", "said"), [
    (["--run", "toy/course", "--onnx", "x.onnx"], "name one of them"),
    (["--data", "nowhere"], "no finished run of 'nowhere'"),
    (["--run", "toy/nothing"], "no run"),
    (["--data", "toy", "--top", "0"], "--top 0"),
    (["--data", "toy", "--threshold", "1.5"], "--threshold 1.5"),
])
def test_a_wrong_call_is_a_clear_error(toy, arguments, said):
    with pytest.raises(SettingError, match=said):
        call(toy / "test", *arguments)


def test_a_blend_answers_with_the_weights_that_it_was_fitted_with(toy, run_dir, capsys):
    other = Run(trained(toy, seed=1))
    made = blend([Run(run_dir), other], Store.open(other.store_dir()).labels, "any")
    content = answers(capsys, toy / "test", "--run", made.run_id)
    exact = np.exp(log_softmax(read_logits(made.test_path)[1]))
    np.testing.assert_allclose(probabilities(content), exact[np.argsort(["t0", "t1", "t2", "t3"])], atol=2e-3)
    assert content["calibrated_on"] == 18
    other.fold(0).model_path.unlink()
    with pytest.raises(RunError, match=rf"the models of {other.run_id} are gone"):
        call(toy / "test", "--run", made.run_id)
    shutil.rmtree(other.directory)
    shutil.rmtree(made.directory)
