"""Two processes as one run: the weights of one process, one set of files, the same accuracy with batch norm."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from src.base import distributed
from src.base.torch_files import load_tensors
from src.ledger import file as ledger
from src.runs.logits import read_logits

ROOT = Path(__file__).parents[2]
PLAIN = ["encoder.dropout=0.0", "train.steps=12", "train.batch_size=8", "train.crop_frames=20", "folds=2",
         "optim.warmup_steps=2"]
TORCHRUN = ["-m", "torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
            "--nproc-per-node"]


def environment(workspace):
    return os.environ | {"SPEAKER_ID_WORKSPACE": str(workspace), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def launch(workspace, directory, settings, processes, expected=0):
    """Run preprocess and train on `directory` and return what was printed."""
    words = ["--data", str(directory), "--experiment", "course"]
    words += [word for setting in [*settings, "train.threads=1", "train.device=cpu"] for word in ("--set", setting)]
    starter = [*TORCHRUN, str(processes)] if processes > 1 else []
    printed = ""
    for start, stage in (([], "preprocess"), (starter, "train")):
        done = subprocess.run([sys.executable, *start, "-m", "src", stage, *words], capture_output=True, text=True,
                              timeout=300, env=environment(workspace), cwd=ROOT)
        printed += done.stdout + done.stderr
        if stage == "train":
            assert (done.returncode == 0) == (expected == 0), printed
    return printed


def run_dir(workspace):
    (found,) = (workspace / "data" / "runs").glob("*/course-*")
    return found


def test_two_processes_give_the_weights_of_one_and_one_set_of_files(course_dir, tmp_path, monkeypatch):
    runs = {}
    for processes in (1, 2):
        workspace = tmp_path / f"by_{processes}"
        printed = launch(workspace, course_dir, PLAIN, processes)
        runs[processes] = run_dir(workspace)
        monkeypatch.setenv("SPEAKER_ID_WORKSPACE", str(workspace))
        assert len([row for row in ledger.read() if row["source"] == "ours"]) == 1
        assert printed.count("[2/4] train") == 1, "only rank 0 speaks"
    names = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in runs.values()]
    assert names[0] == names[1]
    assert runs[1].name != runs[2].name, "the number of processes is in the digest"
    for fold in ("fold_0", "fold_1"):  # Adam makes steps of rounding errors where a gradient is zero: hence 0.01
        alone, shared = (read_logits(run / fold / "test.npz")[1] for run in runs.values())
        np.testing.assert_allclose(shared, alone, atol=0.01)


def test_processes_that_skip_other_layers_go_on_together(audio_dir, tmp_path):
    settings = ["encoder=hubert", "encoder.size=small", "encoder.layer_drop=0.5", "features.store=waveform",
                "train.steps=6", "train.batch_size=4", "train.crop_frames=20", "folds=2", "optim.warmup_steps=2"]
    launch(tmp_path, audio_dir, settings, 2)
    assert (run_dir(tmp_path) / "result.json").exists()


GRADIENTS = """
import sys
import torch
from src import experiments
from src.base import distributed
from src.training import collectives
from src.competition.open import open_competition
from src.settings.config import override, parse_assignments
from src.runs.plan import make_plan
from src.store.find import find_store
from src.store.store import Store
from src.training.fold import Fold

directory, out, *settings = sys.argv[1:]
competition = open_competition(directory)
experiment = override(experiments.get("course"), parse_assignments(settings))
plan = make_plan(competition.name, find_store(competition, experiment.features), experiment)
collectives.start("cpu")
store = Store.open(plan.store_dir)
fold = Fold(plan, store, 0)
fold.loss_of(3)["loss"].backward()
torch.save({name: p.grad for name, p in fold.model.named_parameters()}, f"{out}.{distributed.rank()}")
collectives.leave(0)
"""


def test_gradients_are_those_of_one_process(course_dir, tmp_path):
    launch(tmp_path, course_dir, PLAIN, 1)
    script, settings = tmp_path / "gradients.py", [*PLAIN, "train.threads=1", "train.device=cpu"]
    script.write_text(GRADIENTS)
    for starter, out in (([], "alone"), ([*TORCHRUN, "2"], "shared")):
        subprocess.run([sys.executable, *starter, str(script), str(course_dir), str(tmp_path / out), *settings],
                       check=True, timeout=300, cwd=ROOT, env=environment(tmp_path))
    alone = load_tensors(tmp_path / "alone.0")
    assert max(gradient.abs().max() for gradient in alone.values()) > 1e-3
    for rank in (0, 1):
        torch.testing.assert_close(load_tensors(tmp_path / f"shared.{rank}"), alone, rtol=1e-4, atol=1e-7)


def test_every_sample_of_a_batch_is_some_processes_own(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    taken = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        first, count = distributed.share(24, 12)
        taken += range(first, first + count)
    assert taken == list(range(24, 36))


def test_only_the_training_stages_may_be_shared_and_batches_must_divide(course_dir, tmp_path):
    printed = launch(tmp_path / "odd", course_dir, [*PLAIN, "train.batch_size=9"], 2, expected=2)
    assert "cannot be shared evenly by 2 processes" in printed
    done = subprocess.run([sys.executable, "-m", "src", "run"], capture_output=True, text=True, cwd=ROOT, timeout=60,
                          env=environment(tmp_path) | {"WORLD_SIZE": "2", "RANK": "0"})
    assert done.returncode == 2
    assert "only train and ablate" in done.stderr


@pytest.mark.campaign
def test_two_processes_with_batch_norm_dropout_and_averaged_weights_are_as_right(tmp_path, monkeypatch):
    valid = {}
    for processes in (1, 2):
        workspace = tmp_path / f"by_{processes}"
        words = ["--experiment", "default", "--set", "train.steps=300", "--set", "folds=1"]
        starter = [*TORCHRUN, str(processes)] if processes > 1 else []
        for start, stage in (([], "preprocess"), (starter, "train")):
            subprocess.run([sys.executable, *start, "-m", "src", stage, *words], check=True, cwd=ROOT, timeout=600,
                           env=environment(workspace), capture_output=True)
        monkeypatch.setenv("SPEAKER_ID_WORKSPACE", str(workspace))
        valid[processes] = float([row for row in ledger.read() if row["source"] == "ours"][-1]["valid"])
    assert abs(valid[1] - valid[2]) <= 0.06, valid  # 54 held-out utterances: three of them


def test_processes_fail_at_the_same_step_and_can_go_on_together(tmp_path):
    """As a ladder does after a rung that diverges: who raised alone would wait for the others, and they for it."""
    script = tmp_path / "ladder.py"
    script.write_text("""
import pathlib, sys
import torch
from src.base import distributed
from src.training import collectives, loop
from src.settings.config import Optim
from src.base.errors import DivergedError

collectives.start("cpu")
loop.SHOW_EVERY_S = 1e9 * distributed.rank()  # rank 0 looks at its sums after each step, rank 1 never

def rung(name, poison_at):
    model = torch.nn.Linear(2, 1)
    shared = collectives.wrap_ddp(model, "cpu", skips=False)

    def loss_of(step):
        poison = float("nan") if step >= poison_at and distributed.is_main() else 1.0
        return {"loss": shared(torch.ones(1, 2)).square().mean() * poison}

    return loop.Loop(model=model, optim=Optim(), steps=25, loss_of=loss_of, seed=0,
                     directory=pathlib.Path(sys.argv[1], name))

try:
    rung("first", 3).run()
except DivergedError as error:
    pathlib.Path(sys.argv[1], f"{distributed.rank()}.txt").write_text(str(error)[-400:])
rung("second", 99).run()
collectives.leave(0)
""")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    subprocess.run([sys.executable, *TORCHRUN, "2", str(script), str(tmp_path)], check=True, cwd=ROOT, timeout=100,
                   env=environment(tmp_path))
    assert "at step 10;" in (tmp_path / "0.txt").read_text()
    assert "at step 10;" in (tmp_path / "1.txt").read_text()
    assert not (tmp_path / "first" / "last.pt").exists(), "weights that are not finite are saved by nobody"
