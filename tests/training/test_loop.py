"""The loop: stopped and resumed equals never stopped, bit for bit; the best weights are a real copy."""

import os
import signal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from src.base.errors import RunError
from src.settings.config import Optim
from src.training import loop
from src.training.loop import Loop, step_seed
from src.training.optim import WeightAverage, build_optimiser, learning_rate


class Job:
    """A small regression with dropout and batch norm, so that random numbers and buffers matter."""

    def __init__(self, directory, steps=24, **settings):
        torch.manual_seed(step_seed(7, 0, -1))
        self.model = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
        self.calls, self.stop_at, self.poison_at, self.fail_at = [], None, None, None
        self.metrics = {}
        self.loop = Loop(model=self.model, optim=Optim(lr=1e-2, warmup_steps=3, ema_decay=0.9, grad_clip=1.0),
                         steps=steps, loss_of=self.loss_of, directory=directory, seed=7, validate=self.validate,
                         valid_every=6, select="best", **settings)

    def loss_of(self, step):
        if step == self.fail_at:
            raise ZeroDivisionError
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        generator = torch.Generator().manual_seed(step_seed(7, 0, step))
        inputs = torch.randn(8, 5, generator=generator)
        loss = F.cross_entropy(self.model(inputs), inputs[:, :3].argmax(1))
        self.calls.append(step)
        return {"loss": loss * (float("nan") if step == self.poison_at else 1.0)}

    def validate(self, step):
        inputs = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
        metric = self.metrics.get(step, float((self.model(inputs).argmax(1) == inputs[:, :3].argmax(1)).float().mean()))
        return {"valid_metric": metric}

    def weights(self):
        return torch.cat([value.flatten().double() for value in self.model.state_dict().values()])


@pytest.mark.parametrize("stops", [(5,), (0, 6, 11, 12), (22, 23)])
def test_stopped_and_resumed_equals_never_stopped(tmp_path, stops):
    undisturbed = Job(tmp_path / "a")
    log = undisturbed.loop.run().log
    for stop in stops:
        job = Job(tmp_path / "b")
        job.stop_at = stop
        with pytest.raises(KeyboardInterrupt):  # also at the last step: what follows the loop is not begun
            job.loop.run()
        assert job.calls[-1] == stop, "the step under way is finished, then the state is saved"
    job = Job(tmp_path / "b")
    assert job.loop.run().log == log
    assert torch.equal(job.weights(), undisturbed.weights())
    assert (tmp_path / "a" / "log.csv").read_bytes() == (tmp_path / "b" / "log.csv").read_bytes()


def test_a_kill_between_saves_loses_steps_but_changes_nothing(tmp_path):
    undisturbed = Job(tmp_path / "a")
    undisturbed.loop.run()
    job = Job(tmp_path / "b")
    job.poison_at = 15  # dies after the save at step 12
    with pytest.raises(RunError, match="not finite"):
        job.loop.run()
    again = Job(tmp_path / "b")
    again.loop.run()
    assert again.calls[0] == 12
    assert torch.equal(again.weights(), undisturbed.weights())


def test_a_run_killed_after_a_save_between_validations_logs_what_an_undisturbed_one_does(tmp_path, monkeypatch):
    undisturbed = Job(tmp_path / "a")
    log = undisturbed.loop.run().log
    monkeypatch.setattr(loop, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(loop, "SHOW_EVERY_S", 1e9)
    job = Job(tmp_path / "b")
    job.fail_at = 16
    with pytest.raises(ZeroDivisionError):
        job.loop.run()
    again = Job(tmp_path / "b")
    assert again.loop.run().log == log
    assert again.calls[0] == 16
    assert torch.equal(again.weights(), undisturbed.weights())


def test_the_best_weights_are_a_copy_and_come_back(tmp_path):
    job = Job(tmp_path)
    job.metrics = {6: 0.1, 12: 0.9, 18: 0.2, 24: 0.3}
    kept = {}
    inner = job.validate

    def validate(step):
        kept[step] = job.weights()
        return inner(step)

    job.loop.validate = validate
    progress = job.loop.run()
    assert (progress.best_step, progress.best_metric) == (12, 0.9)
    assert torch.equal(job.weights(), kept[12])
    assert not torch.equal(kept[12], kept[24])


def test_a_loss_that_is_not_finite_stops_with_a_remedy(tmp_path):
    job = Job(tmp_path)
    job.poison_at = 2
    with pytest.raises(RunError, match=r"not finite .* optim\.lr"):
        job.loop.run()
    assert not (tmp_path / "last.pt").exists(), "poisoned weights are never saved"


def test_the_schedule_is_linear_then_cosine():
    optim = Optim(lr=2.0, warmup_steps=10)
    assert [learning_rate(step, 110, optim) for step in (0, 5, 10, 60)] == pytest.approx([0.0, 1.0, 2.0, 1.0])
    assert learning_rate(109, 110, optim) < 0.001


def test_the_weight_average_is_the_formula(tmp_path):
    model = nn.Linear(2, 1)
    average = WeightAverage(model, decay=0.3)  # which the rising decay passes after the third update
    expected = model.weight.detach().clone()
    for n in range(6):
        with torch.no_grad():
            model.weight.add_(torch.randn_like(model.weight))
        average.update()
        decay = min(0.3, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    now = model.weight.detach().clone()
    average.swap()
    torch.testing.assert_close(model.weight.detach(), expected)
    average.swap()
    assert torch.equal(model.weight.detach(), now)


@pytest.mark.parametrize("select", ["last", "best"])
def test_the_average_is_what_is_validated_and_kept(tmp_path, monkeypatch, select):
    job, raw, seen, update = Job(tmp_path), [], [], WeightAverage.update
    job.loop.select = select
    start = job.weights()

    def spy(average):
        update(average)
        raw.append(job.weights())

    monkeypatch.setattr(WeightAverage, "update", spy)
    job.loop.validate = lambda step: seen.append(job.weights()) or {"valid_metric": float(step)}
    job.loop.run()
    averages = [start]
    for n, weights in enumerate(raw):
        decay = min(0.9, (1 + n) / (10 + n))
        averages.append(decay * averages[-1] + (1 - decay) * weights)
    for found, step in zip([*seen, job.weights()], (6, 12, 18, 24, 24)):
        close = torch.isclose(found, averages[step], rtol=1e-4, atol=1e-5)
        assert close.sum() >= len(close) - 1, "all but the counter of batches, which is a whole number"
        assert not torch.allclose(found, raw[step - 1], rtol=1e-4, atol=1e-5)


def test_the_optimiser_is_the_one_that_is_asked_for():
    weight = nn.Parameter(torch.ones(3))
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        optimiser = build_optimiser([weight], Optim(name=name, weight_decay=0.125), "cpu")
        assert type(optimiser) is kind
        assert optimiser.param_groups[0]["weight_decay"] == 0.125


def test_gradients_are_clipped_where_it_is_asked(tmp_path, monkeypatch):
    norms, clip = [], nn.utils.clip_grad_norm_

    def spy(parameters, most):
        parameters = list(parameters)
        clip(parameters, most)
        norms.append((most, float(torch.cat([p.grad.flatten() for p in parameters]).norm())))

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", spy)
    job = Job(tmp_path)
    job.loop.optim = Optim(lr=1e-2, grad_clip=1e-3)
    job.loop.run()
    assert len(norms) == 24
    assert all(most == 1e-3 and norm <= 1.001e-3 for most, norm in norms)
