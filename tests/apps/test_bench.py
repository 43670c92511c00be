"""The bench: what is timed and what not, a process for each case, in turn with a peer, nothing left behind."""

import argparse
import importlib
import json
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from src import experiments
from src.apps.bench import batches as bench_batches
from src.apps.bench import command as bench_command
from src.apps.bench import machine as bench_machine
from src.apps.bench import models as bench_models
from src.apps.bench import passes as bench_passes
from src.apps.bench import peer as bench_peer
from src.apps.bench import run as bench
from src.apps.bench import table as bench_table
from src.apps.bench import worker as bench_worker
from src.apps.bench.machine import PRECISIONS
from src.base.errors import InputError, RunError, SettingError
from src.base.workspace import PROJECT_DIR, VARIABLE
from src.competition.open import open_competition
from src.preprocess import preprocess
from src.runs.plan import make_plan
from src.settings import auto
from src.settings import auto as adapt
from src.settings.config import Features, override, part
from src.store.store import Store
from src.training.fold import Fold

TINY = {"encoder": part("transformer", d_model=8, num_heads=2, feed_forward_dim=16), "train.batch_size": 8,
        "train.crop_frames": 20, "train.threads": 1, "train.device": "cpu", "folds": 3}
TINY_SET = ["encoder.d_model=8", "encoder.feed_forward_dim=16", "train.batch_size=4", "train.crop_frames=20",
            "train.threads=1", "folds=3"]
PEER = """
    import json, pathlib, sys
    with open(pathlib.Path(__file__).with_suffix(".calls"), "a") as file:
        print(*sys.argv[1:], file=file)
    print("some progress")
    print(json.dumps({"crops_per_s": 50.0, "predict_utterances_per_s": 20.0, "steps": 3}))
"""


def tiny_plan(directory, **changes):
    competition, experiment = open_competition(directory), override(experiments.get("course"), TINY | changes)
    return make_plan(competition.name, preprocess(competition, experiment.features), experiment)


def script(path, text):
    path.write_text(textwrap.dedent(text))
    return path


def run_bench(*arguments):
    parser = argparse.ArgumentParser()
    bench_command.add_arguments(parser)
    bench_command.main(parser.parse_args([str(argument) for argument in arguments]))


def test_an_experiment_is_measured_on_all_processors(monkeypatch):
    """Two folds at once would have one processor each, the peer both."""
    monkeypatch.setattr(auto, "usable_cpus", lambda: 2)
    monkeypatch.setattr(auto, "memory_gb", lambda: 16)
    data = adapt.DataSummary("logmel", 2000, 8, 400)
    parser = argparse.ArgumentParser()
    bench_command.add_arguments(parser)
    for words, threads in (([], 2), (["--set", "folds=5"], 1)):
        chosen = bench.chosen_experiments(parser.parse_args(words), "cpu")
        assert list(chosen) == ["course", "seed88", "default"]
        assert {adapt.adapt(experiment, data).train.threads for experiment in chosen.values()} == {threads}


class Here:
    """A worker in this process: the same calls without a new interpreter."""

    log = ()  # of (what, seconds), replaced by the tests that look at it

    def __init__(self, case, about):
        self.meter, self.about = case.open(), about

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def call(self, method, *arguments):
        return getattr(self.meter, method)(*arguments)

    def measure(self, seconds):
        Here.log += ((self.about, seconds),)
        return self.meter.rate(seconds), 123.0


@pytest.fixture
def here(monkeypatch):
    """Measure in this process, and keep what was measured in Here.log."""
    monkeypatch.setattr(bench, "Worker", Here)
    monkeypatch.setattr(Here, "log", ())
    return Here


# What a rate is -------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that only `sleep` moves."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    """Make rates a matter of arithmetic."""
    clock = Clock()
    for module in (bench_passes, bench_batches, bench_models):
        monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_pass_is_timed_without_what_clears_the_way_for_it(clock):
    done = []
    meter = bench_passes.Passes(lambda: (done.append("work"), clock.sleep(0.02)), 10,
                               lambda: (done.append("clear"), clock.sleep(5.0)))
    assert meter.rate(0) == pytest.approx(10 / 0.02)
    assert done == ["clear", "work"]
    assert meter.rate(0.05) == pytest.approx(10 / 0.02)
    assert done.count("work") == 1 + 3, "several short passes fill the time"


def test_equal_batches_are_counted_and_numbered_on(clock):
    drawn = []
    meter = bench_batches.Batches(lambda i: (drawn.append(i), clock.sleep(0.0101)), 32, "cpu")
    assert meter.rate(0) == pytest.approx(32 / 0.0101)
    assert meter.rate(0.1) == pytest.approx(32 / 0.0101)
    assert drawn == list(range(1 + 10))


def test_training_is_timed_through_the_loop_itself_without_its_warm_up(course_dir, workspace, clock):
    steps = bench_models.Training(tiny_plan(course_dir)).open()
    fold, seen = steps.fold, []
    loss_of = fold.loss_of
    before = [parameter.clone() for parameter in fold.model.parameters()]

    def slow(step):
        seen.append(step)
        clock.sleep(60.0 if step < bench_models.WARMUP_STEPS else 0.25)
        return loss_of(step)

    fold.loss_of = slow
    assert steps.rate(0) == pytest.approx(8 / 0.25), "8 crops a step"
    assert seen == list(range(bench_models.WARMUP_STEPS + 2))
    assert any((now != then).any() for now, then in zip(fold.model.parameters(), before)), "the optimiser took no step"
    seen.clear()
    assert steps.rate(2.0) == pytest.approx(8 / 0.25)
    assert len(seen) == bench_models.WARMUP_STEPS + 8, "as many steps as the last rate promises"


def test_operations_of_a_training_step_are_those_of_the_layers(course_dir, workspace):
    dim, inner, kernel, frames, speakers = 8, 12, 5, 20, 3
    encoder = part("conformer", d_model=dim, num_layers=2, num_heads=2, feed_forward_dim=inner, kernel_size=kernel)
    steps = bench_models.Training(tiny_plan(course_dir, encoder=encoder, head=part("linear"))).open()
    a_layer = 4 * dim * inner + 4 * dim * dim + 3 * dim * dim + kernel * dim  # per frame; projections, convolutions
    attention = 2 * frames * dim  # per frame: scores, then their product with the values
    multiplied = frames * (2 * (a_layer + attention) + 40 * dim) + dim * speakers
    not_needed = frames * 40 * dim  # the gradient of the input
    assert steps.flops_per_crop() == 2 * (3 * multiplied - not_needed)


def test_inference_takes_utterances_of_every_length_and_all_of_them_in_time(course_dir, workspace, monkeypatch, clock):
    meter, seen = bench_models.Inference(tiny_plan(course_dir)).open(), []
    assert sorted(meter.rows) == meter.store.test_rows.tolist()
    meter.rows = np.repeat(meter.rows, 50)  # 200 utterances, by length as before

    def predict(model, store, rows, train, infer):
        seen.append(rows)
        clock.sleep(len(rows) / 1000)

    monkeypatch.setattr("src.apps.bench.models.predict", predict)
    assert meter.rate(0) == pytest.approx(1000)
    assert np.unique(seen[0], return_counts=True)[1].tolist() == [16] * 4, "64 of them, of each length as often"
    assert meter.rate(0.1) == pytest.approx(1000)
    assert list(map(len, seen[1:])) == [100], "as many as the last rate promises"
    meter.rate(1.0)
    assert list(map(len, seen[2:])) == [200] * 3, "whole passes over all of them until half of the time is gone"


def test_the_longest_utterance_is_one_of_so_many_frames(course_dir, audio_dir, workspace):
    for directory, changes, unit in ((course_dir, {}, 1), (audio_dir, {"features.store": "waveform"}, 160)):
        meter = bench_models.Inference(tiny_plan(directory, **changes), 50).open()
        assert meter.store.num_frames.tolist() == [50 * unit]
        assert meter.rate(0) > 0


# What is compared -----------------------------------------------------------------------------------------------------


def test_crops_of_files_are_windows_of_them(course_dir, audio_dir):
    for directory, num_frames, shape in ((course_dir, 35, (16, 35, 40)), (audio_dir, 51, (16, 51 * 160))):
        competition = open_competition(directory)
        train = [utterance for utterance in competition.utterances if utterance.split == "train"]
        crops = bench_batches.FileCrops(competition, Features(), num_frames, 16).open().draw(0)
        assert crops.shape == shape
        if directory == course_dir:
            files = [torch.load(course_dir / utterance.path, weights_only=True) for utterance in train]
            windows = [torch.nn.functional.pad(file, (0, 0, 0, max(0, 35 - len(file)))).unfold(0, 35, 1).transpose(1, 2)
                       for file in files]
            windows = torch.cat(windows)
            assert all((windows == crop).all(2).all(1).any() for crop in crops), "a crop that no training file holds"
            assert len({crop.numpy().tobytes() for crop in crops}) > 8


def test_crops_of_the_store_are_the_training_loops_own(course_dir, workspace):
    plan = tiny_plan(course_dir)
    store, meter = Store.open(plan.store_dir), bench_batches.StoreCrops(plan.store_dir, 20, 18, "cpu").open()
    first, second = meter.draw(0), meter.draw(1)
    assert first.shape == (18, 20, 40)
    assert not torch.equal(first, second)
    windows = torch.from_numpy(store.frames).unfold(0, 20, 1).transpose(1, 2).float()
    assert all((windows == crop).all(2).all(1).any() for crop in first)


def test_whole_utterances_are_filled_up_to_the_longest_of_their_batch_or_of_all(course_dir, workspace, monkeypatch):
    plan, seen = tiny_plan(course_dir, **{"train.batch_size": 4}), {}
    losses_of, store = Fold.losses_of, Store.open(plan.store_dir)
    learnt = store.folds(3)[0][0]
    for padding in bench.PADDINGS:
        batches = seen[padding] = []

        def recorded(fold, batch, batches=batches):
            batches.append(batch)
            return losses_of(fold, batch)

        monkeypatch.setattr(Fold, "losses_of", recorded)
        assert bench_models.WholeUtterances(plan, padding).open().rate(0) > 0
        meter = bench_models.WholeUtterances(plan, padding).open()
        assert all(float(meter.draw(i)) > 0 for i in range(5))
    for longest, most in zip(seen["longest"], seen["max_length"]):
        assert most.inputs.shape[1] == store.num_frames[learnt].max()
        lengths = [longest.inputs.shape[1]] * 4 if longest.lengths is None else longest.lengths.tolist()
        assert max(lengths) == longest.inputs.shape[1]
        torch.testing.assert_close(most.inputs[:, : longest.inputs.shape[1]], longest.inputs)
        assert torch.equal(most.labels, longest.labels)
        assert not most.inputs[:, max(lengths):].any()
        for item, length in zip(longest.inputs, lengths):
            assert any(torch.equal(item[:length], torch.from_numpy(store.frames[store.offsets[row]:][:length]).float())
                       for row in learnt if store.num_frames[row] == length), "no utterance is whole"
    assert len({batch.inputs.shape[1] for batch in seen["longest"]}) > 1


def test_a_part_of_a_competition_keeps_both_splits_and_their_order(course_dir):
    whole = open_competition(course_dir)
    half = bench_passes.part_of(whole, 2)
    assert [u.split for u in half.utterances] == ["train"] * 9 + ["test"] * 2
    assert list(half.utterances) == list(whole.utterances[:18:2]) + list(whole.utterances[18::2])
    assert bench_passes.part_of(whole, 1) == whole


# Processes ------------------------------------------------------------------------------------------------------------


ODD = """
    import os
    from dataclasses import dataclass
    from src.base.errors import InputError

    @dataclass
    class Odd:
        what: str

        def open(self):
            if self.what == "fails":
                raise InputError("no such thing")
            self.held = b"x" * (300 << 20 if self.what == "allocates" else 1)
            return self

        def rate(self, seconds):
            return os._exit(9) if self.what == "dies" else seconds
"""


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """Cases that allocate, fail or die, in a module that a worker's process imports quickly."""
    script(tmp_path / "odd.py", ODD)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("odd").Odd


def test_each_case_has_a_process_and_a_peak_memory_of_its_own(odd):
    with bench_worker.Worker(odd("allocates"), "a") as large, bench_worker.Worker(odd("nothing"), "b") as small:
        assert large.measure(2.0)[0] == 2.0
        (_, large_mb), (_, small_mb) = large.measure(2.0), small.measure(1.0)
        assert 310 < large_mb - small_mb < 320
        assert small_mb < bench_worker.peak_mb() / 2, "what this process holds is not the case's"
        processes = [large.process, small.process]
        assert all(process.is_alive() for process in processes)
    assert not any(process.is_alive() for process in processes)


def test_an_error_in_a_case_is_raised_and_a_death_is_told(odd):
    with bench_worker.Worker(odd("fails"), "a") as worker, pytest.raises(InputError, match="no such thing"):
        worker.measure(1.0)
    with bench_worker.Worker(odd("dies"), "the odd one") as worker, \
            pytest.raises(RunError, match=r"the odd one.*died with exit code 9"):
        worker.measure(1.0)


# The peer -------------------------------------------------------------------------------------------------------------


def test_a_peer_is_run_on_the_folder_and_its_last_line_read(course_dir, tmp_path):
    path = script(tmp_path / "peer.py", PEER)
    peer = bench_peer.Peer.of(str(path), open_competition(course_dir), "cpu")
    result = peer.run("seed88", 7)
    assert (result.crops_per_s, result.predict_utterances_per_s) == (50.0, 20.0)
    assert path.with_suffix(".calls").read_text().split() == [str(course_dir), "--model", "seed88", "--steps", "7"]


def test_a_peer_imports_what_lies_beside_it_and_not_ours(course_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # as run.sh does
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_DIR))
    path = script(tmp_path / "peer.py", f"{PEER}    from src import beside")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "beside.py").touch()
    assert bench_peer.Peer.of(str(path), open_competition(course_dir), "cpu").run("course", 1).crops_per_s == 50.0


def test_a_peers_memory_is_that_of_all_its_processes(course_dir, tmp_path):
    path = script(tmp_path / "peer.py", """
        import subprocess, sys, time
        if len(sys.argv) > 2:
            subprocess.run([sys.executable, __file__, "child"])
        else:
            held = b"x" * (200 << 20)
            time.sleep(1.0)
    """)
    path.write_text(path.read_text() + textwrap.dedent(PEER))
    peer = bench_peer.Peer.of(str(path), open_competition(course_dir), "cpu")
    assert 209 < peer.run("course", 1).peak_mb < 300


@pytest.mark.parametrize(("text", "message"), [
    ("import sys; print('first\\nValueError: what went wrong', file=sys.stderr); sys.exit(3)",
     r"exit code 3(.|\n)*what went wrong"),
    ("print('no numbers')", r"printed no crops_per_s(.|\n)*no numbers"),
    ("print('{\"crops_per_s\": 5.0}')", "printed no crops_per_s"),
    ("print('{\"crops_per_s\": 5.0, \"predict_utterances_per_s\": 0.0}')", "printed no crops_per_s"),
])
def test_a_peer_that_fails_is_an_error_with_its_last_lines(course_dir, tmp_path, text, message):
    peer = bench_peer.Peer.of(str(script(tmp_path / "peer.py", text)), open_competition(course_dir), "cpu")
    with pytest.raises(RunError, match=message):
        peer.run("course", 1)


def test_a_peer_is_ended_with_its_children_when_the_bench_is_interrupted(course_dir, tmp_path, monkeypatch):
    path = script(tmp_path / "peer.py", """
        import pathlib, subprocess, sys, time
        if len(sys.argv) > 2:
            child = subprocess.Popen([sys.executable, __file__, "child"])
            pathlib.Path(__file__).with_suffix(".child").write_text(str(child.pid))
        time.sleep(60)
    """)

    def interrupt(process_id):
        if path.with_suffix(".child").exists() and path.with_suffix(".child").read_text():
            raise KeyboardInterrupt
        return 0.0

    monkeypatch.setattr(bench_peer, "peak_mb", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench_peer.Peer.of(str(path), open_competition(course_dir), "cpu").run("course", 1)
    child, deadline = Path("/proc", path.with_suffix(".child").read_text()), time.monotonic() + 5
    while child.exists() and "\nState:\tZ" not in (child / "status").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not child.exists() or "\nState:\tZ" in (child / "status").read_text()


# The command ----------------------------------------------------------------------------------------------------------


def test_everything_is_measured_in_turn_printed_written_and_removed(course_dir, workspace, here, monkeypatch, capsys):
    peer = script(workspace / "peer.py", PEER)
    run = bench_peer.Peer.run

    def logged(self, model, steps):
        here.log += ((f"peer {model} {steps}", 0.0),)
        return run(self, model, steps)

    monkeypatch.setattr(bench_peer.Peer, "run", logged)
    monkeypatch.setattr(bench_batches.MatrixProduct, "open", lambda case: bench_batches.Batches(str, 1e-3, "cpu"))
    settings = [word for setting in TINY_SET for word in ("--set", setting)]
    run_bench("--data", course_dir, "--experiments", "course", *settings, "--repeats", 2, "--seconds", 0.01, "--device",
              "cpu", "--precisions", "float32", "bfloat16", "--peer", peer, "--peer-steps", "course=3", "--json",
              workspace / "out.json")
    log = [what for what, seconds in here.log if seconds or what.startswith("peer")]
    models = ["train: course, float32", "train: course, bfloat16", "infer: course, float32", "infer: course, bfloat16",
              "infer: course, float32, 4,940 frames", "peer course 3"]
    stages = [["preprocess: 22 utterances, read only", "preprocess: 22 utterances"],
              [f"crops: {what}" for what in ("a file an item, 48 frames", "store, 48 frames, batch 32",
                                             "store, 48 frames, batch 256")],
              ["train: matrix product, float32", "train: matrix product, bfloat16"], models]
    assert log == [what for group in stages for what in group * 2]
    assert not list((workspace / "data").glob(".bench-*"))
    assert os.environ[VARIABLE] == str(workspace)
    assert not (workspace / "data" / "cache").exists(), "the store was made outside the scratch"

    content = json.loads((workspace / "out.json").read_text())
    rows = {f"{row['stage']}: {row['what']}": row for row in content["rows"]}
    assert len(rows) == len(content["rows"]) == 14
    assert all(len(row["values"]) == 2 and row["low"] <= row["median"] <= row["high"] for row in rows.values())
    ours, theirs = rows["train: course, bfloat16"], rows["train: course, peer"]
    assert theirs["values"] == [50.0, 50.0]
    assert rows["infer: course, peer"]["values"] == [20.0, 20.0]
    assert ours["ratios"] == pytest.approx({"peer": ours["median"] / 50, "float32": ours["median"] / rows[
        "train: course, float32"]["median"]})
    for precision in PRECISIONS:
        row, product = rows[f"train: course, {precision}"], rows[f"train: matrix product, {precision}"]
        assert row["part_of_matrix_rate"] == pytest.approx(row["median"] * row["flops"] / (1e12 * product["median"]))
    assert rows["preprocess: 22 utterances"]["ratios"].keys() == {"reading"}
    assert rows["crops: store, 48 frames, batch 256"]["ratios"].keys() == {"a file an item"}
    printed = capsys.readouterr().out
    assert all(f"\n{stage:<10}  {what} " in printed for stage, _, what in (name.partition(": ") for name in rows))
    assert printed.splitlines()[-1].startswith("course: ")


def test_preprocessing_at_several_sizes(frames_dir, workspace, here, capsys):
    run_bench("--data", frames_dir, "--stages", "preprocess", "--scale", "--repeats", 1, "--seconds", 0.01)
    done = [about for about, _ in here.log if "read only" not in about]
    assert done == [f"preprocess: {size} utterances" for size in (2 + 1, 3 + 1, 5 + 2, 9 + 3, 23)]
    assert "7.7 times as many" in capsys.readouterr().out


@pytest.mark.parametrize(("multiplies", "asked", "measured"), [
    (True, (), PRECISIONS), (False, (), ("float32",)), (False, ("bfloat16",), ("bfloat16",))])
def test_bfloat16_is_left_out_where_the_processor_does_not_multiply_it(course_dir, workspace, here, monkeypatch, capsys,
                                                                       multiplies, asked, measured):
    monkeypatch.setattr(bench_machine, "multiplies_bfloat16", lambda: multiplies)
    monkeypatch.setattr(bench_batches.MatrixProduct, "open", lambda case: bench_batches.Batches(str, 1e-3, "cpu"))
    settings = [word for setting in TINY_SET for word in ("--set", setting)]
    run_bench("--data", course_dir, "--experiments", "course", *settings, "--stages", "train", "--repeats", 1,
              "--seconds", 0.01, "--device", "cpu", *(("--precisions", *asked) if asked else ()))
    assert [about for about, seconds in here.log if seconds] == [
        f"train: {what}, {precision}" for what in ("matrix product", "course") for precision in measured]
    assert ("left out" in capsys.readouterr().out) == (measured == ("float32",))


def test_ways_to_pad_are_measured_in_turn_when_asked_for(course_dir, workspace, here, capsys):
    settings = [word for setting in TINY_SET for word in ("--set", setting)]
    run_bench("--data", course_dir, "--experiments", "course", *settings, "--stages", "padding", "--repeats", 2,
              "--seconds", 0.01, "--device", "cpu")
    assert [about for about, seconds in here.log if seconds] == ["padding: course, max_length",
                                                                 "padding: course, longest"] * 2
    assert " x max_length" in capsys.readouterr().out


def test_a_store_that_is_there_is_used(course_dir, workspace, here, monkeypatch):
    competition = open_competition(course_dir)
    preprocess(competition, Features())
    monkeypatch.setattr(bench, "ensure_store", lambda *_: pytest.fail("made again"))
    run_bench("--data", course_dir, "--stages", "crops", "--repeats", 1, "--seconds", 0.01)


def test_the_numbers_of_a_row_and_of_the_table():
    base = bench_table.Row("train", "base", "crops/s", values=[10.0, 30.0, 20.0])
    row = bench_table.Row("train", "ours", "crops/s", values=[5.0, 5000.0, 50.0], beside={"base": base}, flops=2e12,
                    matrix_row=bench_table.Row("train", "matrix product", "TFLOP/s", values=[400.0]))
    row.peak_mb = 1234.4
    assert (row.median, row.ratios, row.part_of_matrix_rate) == (50.0, {"base": 2.5}, 0.25)
    header, first, second = bench_table.table([base, row])
    assert " ".join(second.split()) == ("train ours 50.0 5.00 5,000 crops/s 1,234 2.5 x base, "
                                        "25.0% of the matrix product")
    assert first.index("20.0") == second.index("50.0") == header.index("median") + 2


def test_a_precision_is_recommended_only_beyond_the_spread(course_dir):
    measured = bench.Bench(open_competition(course_dir), "cpu", 3, 1.0, PRECISIONS, {})
    assert measured.advice("course") == ""
    for precision, values in (("float32", [10.0, 11.0, 12.0]), ("bfloat16", [20.0, 22.0, 24.0])):
        measured.rows.append(bench_table.Row("train", f"course, {precision}", "crops/s", values=values))
    assert measured.advice("course") == "course: --set train.precision=bfloat16 trains 2.00 times as fast"
    measured.rows[0] = replace(measured.rows[0], values=[10.0, 11.0, 21.0])
    assert "neither" in measured.advice("course")


@pytest.mark.parametrize(("arguments", "message"), [
    (["--repeats", "0"], "--repeats"),
    (["--seconds", "nan"], "--seconds"),
    (["--experiments", "cours"], "did you mean 'course'"),
    (["--set", "train.batch=3"], "did you mean 'batch_size'"),
    (["--peer-steps", "curse=3"], "did you mean 'course'"),
    (["--peer-steps", "course=0"], "whole number"),
    (["--peer", "nowhere.py"], "nowhere.py: no such file"),
    (["--peer", __file__], "frames folder"),
])
def test_what_cannot_be_measured_is_said_before_anything_is(frames_dir, workspace, arguments, message):
    with pytest.raises(SettingError, match=message):
        run_bench("--data", frames_dir, *arguments)


def test_no_gpu_and_a_busy_machine_are_said(frames_dir, workspace, here, monkeypatch, capsys):
    monkeypatch.setattr(bench_machine, "has_gpu", lambda: False)
    with pytest.raises(SettingError, match="no GPU"):
        run_bench("--data", frames_dir, "--device", "cuda")
    for load, is_said in ((0.0, False), (float(bench.usable_cpus()), True)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        run_bench("--data", frames_dir, "--stages", "preprocess", "--repeats", "1", "--seconds", "0.01")
        assert ("busy" in capsys.readouterr().out) == is_said


def test_the_command_with_its_processes_leaves_no_word_and_no_file_behind(frames_dir, workspace):
    code = ("import argparse\nfrom src.apps.bench import command as bench\nif __name__ == '__main__':\n"
            "    parser = argparse.ArgumentParser()\n    bench.add_arguments(parser)\n"
            "    bench.main(parser.parse_args())\n")
    command = [sys.executable, "-c", code, "--data", frames_dir, "--stages", "preprocess", "--repeats", "2",
               "--seconds", "0.01"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT_DIR)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    rows = [line for line in lines if line.startswith("preprocess")]
    assert [row.split("  ")[1] for row in rows] == ["23 utterances, read only", "23 utterances"]
    assert not list(workspace.glob("data/.bench-*"))
