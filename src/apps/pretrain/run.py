"""A pretraining: a plan in; log.csv, curves.png, encoder.pt and, last, result.json out, in the run's folder."""

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.apps.curves import draw
from src.apps.pretrain.contrastive import ContrastivePretrainer
from src.apps.pretrain.plan import TASK, Pretraining, PretrainPlan
from src.apps.task import train_once
from src.base.files import write_json
from src.model.encoders.wav2vec2 import save_encoder
from src.model.speaker_model import num_parameters
from src.settings.parts import build
from src.store.store import Store
from src.training.evaluate import autocast
from src.training.loop import Loop, step_seed
from src.training.sampler import CropSampler

PANELS = {
    "loss": ("loss",), "contrastive loss Lm": ("lm",), "diversity loss Ld": ("ld",),
    "cosine similarity": ("positive_similarity", "negative_similarity"), "contrastive accuracy": ("accuracy",),
    "code perplexity": ("code_perplexity",), "learning rate": ("lr",),
}


def quantiser_temperature(step: int, pretrain: Pretraining) -> float:
    """Return the quantiser's temperature at a 0-based step."""
    return max(pretrain.temperature_floor, pretrain.temperature * pretrain.temperature_decay**step)


def run(plan: PretrainPlan) -> dict[str, Any]:
    """Pretrain what the plan says, unless it is done, and return the result.

    Two processes with the same plan never mix: the second waits. Raises RunError for a loss that is not finite.
    """
    return train_once(plan.run, partial(_pretrain, plan))


def _pretrain(plan: PretrainPlan) -> dict[str, Any]:
    experiment, train, store = plan.experiment, plan.experiment.train, Store.open(plan.store_dir)
    plan.run.begin(experiment, plan.digest, store.digest)
    write_json(plan.run.pretraining_path, asdict(plan.pretrain))
    torch.set_num_threads(train.threads)
    store = store.to(train.device)
    crop_size = train.crop_frames * store.samples_per_frame
    sampler = CropSampler(np.arange(len(store.num_frames)), store.num_frames, store.labels, seed=experiment.seed,
                          fold=0, crop_frames=crop_size)
    model = _initial_model(plan, store.dim)

    def loss_of(step: int) -> dict[str, Tensor]:
        batch = store.crops(*sampler.take(step * train.batch_size, train.batch_size), crop_size)
        rng = np.random.default_rng(step_seed(experiment.seed, 0, step))
        with autocast(train):
            return model(batch.inputs, batch.lengths, rng, quantiser_temperature(step, plan.pretrain))

    progress = Loop(model=model, optim=experiment.optim, steps=train.steps, loss_of=loss_of, directory=plan.directory,
                    seed=experiment.seed, device=train.device, valid_every=train.valid_every,
                    description=plan.run_id).run()
    save_encoder(plan.directory / "encoder.pt", model.encoder)
    draw(plan.run.whole.log_path, plan.directory / "curves.png", PANELS, plan.run_id)
    return TASK.result_of(plan, store.digest, train=progress.log[-1]["accuracy"], params=num_parameters(model.encoder),
                          folds=None, seconds=round(progress.seconds, 2))


def _initial_model(plan: PretrainPlan, input_dim: int) -> ContrastivePretrainer:
    """Return the model before its first step, on the device of the plan."""
    experiment, pretrain = plan.experiment, plan.pretrain
    torch.manual_seed(step_seed(experiment.seed, 0, -1))
    return ContrastivePretrainer(
        build("encoder", experiment.encoder, input_dim), mask_share=pretrain.mask_share, mask_span=pretrain.mask_span,
        num_groups=pretrain.num_groups, num_entries=pretrain.num_entries, code_dim=pretrain.code_dim,
        num_negatives=pretrain.negatives, similarity_temperature=pretrain.similarity_temperature,
        diversity=pretrain.diversity, dropout=pretrain.dropout).to(experiment.train.device)
