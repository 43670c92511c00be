"""On a GPU a captured step is the plain step, for every encoder and augmentation. Skipped where there is none."""

import pytest
import torch

from src.model.layers import Conv1d
from src.settings.config import part
from src.settings.parts import catalogue
from src.store.store import Store
from src.training.run import run
from tests.model.test_parts import SMALL
from tests.test_train import plan_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
STEPS = 10
AUGMENTATIONS = [(name, kind) for name, item in catalogue("augment").items() for kind in ("logmel", "waveform")
                 if kind in item.kinds]


def losses(directory, capture, **changes):
    """Return the loss of each step of a run on the GPU."""
    plan = plan_of(directory, **{"train.device": "cuda", "train.capture": capture, "train.precision": "float32",
                                 "train.valid_every": 1, "train.steps": STEPS, "folds": 1, "optim.lr": 1e-5,
                                 **changes})
    run(plan, Store.open(plan.store_dir))
    rows = (plan.directory / "fold_0" / "log.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss")
    return [float(row.split(",")[column]) for row in rows[1:]]


@pytest.mark.parametrize("crop_frames", [20, 45])  # no utterance is shorter; some are, and are masked
@pytest.mark.parametrize("name", [n for n, item in catalogue("encoder").items() if item.takes == "frames"])
def test_every_encoder_is_captured(course_dir, workspace, name, crop_frames):
    changes = {"encoder": part(name, **SMALL.get(name, {})), "train.crop_frames": crop_frames, "train.short": "pad",
               "head": part("aam_softmax", ramp=0.5), "optim.ema_decay": 0.9, "optim.grad_clip": 5.0}
    plain, captured = (losses(course_dir, capture, **changes) for capture in (False, True))
    assert len(plain) == STEPS
    assert captured == pytest.approx(plain, rel=2e-3)


@pytest.mark.parametrize("changes", [{"train.mixup": 0.2}, {"train.precision": "bfloat16"}, {"head": part("mlp")},
                                     {"augment": part("mel_speed"), "train.speed_classes": True}], ids=str)
def test_every_way_of_training_is_captured(course_dir, workspace, changes):
    plain, captured = (losses(course_dir, capture, **changes) for capture in (False, True))
    assert captured == pytest.approx(plain, rel=2e-2 if "train.precision" in changes else 2e-3)


@pytest.mark.parametrize(("name", "kind"), AUGMENTATIONS)
def test_every_augmentation_is_captured_with_its_own_random_numbers(request, workspace, name, kind):
    directory = request.getfixturevalue({"logmel": "course_dir", "waveform": "audio_dir"}[kind])
    changes = {"augment": part(name), "features.store": kind}
    plain, captured = (losses(directory, capture, **changes) for capture in (False, True))
    assert captured == pytest.approx(plain, rel=2e-3)


def test_a_depthwise_convolution_trained_on_a_gpu_is_the_one_on_a_cpu():
    layer, frames = Conv1d(8, 8, 31, groups=8), torch.randn(3, 40, 8)
    expected = layer(frames)
    found = layer.cuda()(frames.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)
