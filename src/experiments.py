"""Every experiment by name: BASE in full, each other one as its difference from a parent, with its hypothesis.

To ask a new question add one line to EXPERIMENTS: (parent, hypothesis, {dotted key: value}).
"""

import json
from pathlib import Path
from typing import Any

from src.base.errors import InputError, SettingError, nearest
from src.settings.config import Experiment, Infer, Optim, Train, from_json, override, part

# The course's sample: one post-norm Transformer layer on random 128-frame crops, mean pooling, an MLP head. Its 70,000
# steps are for 56,666 utterances; 8,000 are enough for a few thousand (--set train.steps=70000 for the course's own).
BASE = Experiment(
    name="course",
    hypothesis="the course's sample notebook: what a participant starts from",
    encoder=part("transformer", d_model=80, num_layers=1, num_heads=2, feed_forward_dim=256, dropout=0.1),
    pooling=part("mean"),
    head=part("mlp"),
    optim=Optim(lr=1e-3, weight_decay=0.01, warmup_steps=1000),
    train=Train(steps=8000, batch_size=32, crop_frames=128),
    infer=Infer(),
)

_SEED004_CONFORMER = {"encoder": part("conformer", d_model=256, num_layers=2, num_heads=4, feed_forward_dim=512,
                                      kernel_size=31, dropout=0.3)}
_MAX_NORM_DROPOUT = {"pooling": part("self_attention_max"), "embedding.batch_norm": True, "embedding.dropout": 0.3}

EXPERIMENTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "seed88": (
        "course",
        "the published solution that reached 0.88125 / 0.87900: Conformer x3, self-attention pooling, AM-softmax",
        {
            "encoder": part("conformer", d_model=256, num_layers=3, num_heads=4, feed_forward_dim=512,
                            kernel_size=31, dropout=0.3),
            "pooling": part("self_attention"),
            "embedding.batch_norm": True,
            "head": part("am_softmax", scale=30.0, margin=0.35),
            "train.steps": 6000,
        },
    ),
    "default": (
        "course",
        "what run.sh uses: a small ECAPA-TDNN, statistics pooling, angular margin, mixup, averaged weights; adapts",
        {
            "encoder": "auto",
            "pooling": part("statistics"),
            "embedding.dim": "auto",
            "embedding.batch_norm": True,
            "head": part("aam_softmax", scale=30.0, margin=0.2, ramp=0.5),
            "frontend.mean_norm": "auto",
            "augment": "auto",
            "optim.weight_decay": 0.05,
            "optim.grad_clip": 5.0,
            "optim.ema_decay": 0.99,
            "train.steps": "auto",
            "train.crop_frames": "auto",
            "train.short": "auto",
            "train.mixup": 0.2,
            "train.select": "last",
            "folds": "auto",
        },
    ),
    "quick": (
        "default",
        "a laptop's quarter of an hour on a few thousand utterances of speech: one fit on all of them",
        {
            "encoder": part("ecapa_tdnn", channels=256, aggregate_dim=768, se_dim=64, stride=2),
            "pooling": part("attentive_statistics"),
            "embedding.dim": 192,
            "optim.lr": 2e-3,
            "optim.ema_decay": 0.998,
            "train.batch_size": 64,
            "train.steps": 2500,
            "train.short": "device",
            "train.mixup": 0.0,
            "folds": "all",
        },
    ),
    "large": (
        "quick",
        "for a GPU: twice the channels and twice the batch, compiled; short utterances begin again instead of masks",
        {
            "encoder": part("ecapa_tdnn", channels=512, aggregate_dim=1536, se_dim=128, stride=2),
            "train.batch_size": 128,
            "train.steps": 2000,
            "train.short": "repeat",
            "train.compile": True,
            "train.precision": "bfloat16",
        },
    ),
    "large_norm": ("large", "frames less their mean alone: surer in noise and on telephones, to be blended with large",
                   {"frontend.mean_norm": True}),
    "wav2vec2": (
        "course",
        "our own wav2vec 2.0 on waveforms; encoder.weights starts it from a pretraining",
        {
            "features.store": "waveform",
            "encoder": part("wav2vec2"),
            "pooling": "statistics",
            "embedding.batch_norm": True,
            "head": "linear",
            "optim.lr": 5e-4,
            "optim.grad_clip": 5.0,
            "train.crop_frames": 200,
            "train.steps": 2000,
            "infer.frame_budget": 4000,
        },
    ),
    "wav2vec2_decoder": ("wav2vec2", "a downsampler and a decoder after the encoder",
                         {"encoder": part("wav2vec2_decoder")}),
    # Steps for some 2,000 utterances. Small from random weights: --set encoder.size=small --set optim.lr=5e-4 --set
    # optim.warmup_steps=250, and with freeze_first and first_layers finetune.layers=1, with remove_heads
    # finetune.remove=6 at most.
    "hubert": (
        "course",
        "HuBERT, mean over frames, projector of 256, one Linear",
        {
            "encoder": "hubert",
            "features.store": "waveform",
            "embedding.dim": 256,
            "head": "linear",
            "optim.lr": 5e-5,
            "optim.warmup_steps": 100,
            "train.steps": 2500,
            "train.batch_size": 8,
            "train.crop_frames": 300,
            "infer.frame_budget": 4000,
        },
    ),
    "hubert_logmel_sum": ("hubert", "a CNN on the log-mel picture beside it, summed",
                          {"encoder": part("hubert_logmel", join="sum"), "embedding.dim": 0}),
    "hubert_logmel_concat": ("hubert_logmel_sum", "concatenated", {"encoder.join": "concat"}),
    "hubert_logmel_weighted": ("hubert_logmel_sum", "a learnt weighted sum", {"encoder.join": "weighted"}),
    "hubert_logmel_fixed": ("hubert_logmel_sum", "the published layer, bound to one length",
                            {"encoder.fixed_frames": 301}),
    "logmel_cnn": ("hubert_logmel_sum", "the CNN alone",
                   {"encoder": "logmel_cnn", "features.num_mels": 128, "features.n_fft": 1024,
                    "frontend.mean_norm": True}),
    "hubert_emotion": ("hubert", "an MLP of four times the hidden size, Adam at 1e-5, batch 2, 4 epochs",
                       {"embedding.dim": 0, "head": part("mlp", hidden_dim=3072), "optim.name": "adam",
                        "optim.lr": 1e-5, "optim.weight_decay": 0.0, "train.batch_size": 2, "train.steps": 4000}),
    "hubert_freeze9": ("hubert", "first 9 layers frozen", {"finetune.regime": "freeze_first"}),
    "hubert_embedding_last": ("hubert", "only the embedding and the last layer learn",
                              {"finetune.regime": "embedding_and_last"}),
    "hubert_first9": ("hubert", "only the first 9 layers", {"finetune.regime": "first_layers"}),
    "hubert_heads": ("hubert", "the 36 least important heads removed",
                     {"finetune.regime": "remove_heads", "finetune.remove": 36}),
    # Classical models, which take seconds; the network's settings have no effect on them.
    "supervector": ("course", "GMM supervectors and logistic regression: thirty years old, six seconds",
                    {"encoder": "supervector", "folds": "auto"}),
    "supervector_norm": ("supervector", "frames less their mean, for test parts of other sessions",
                         {"encoder.mean_norm": True}),
    "statistics": ("course", "an utterance's means, deviations and quantiles, and logistic regression",
                   {"encoder": "statistics", "folds": "auto"}),
    # The published solution's techniques one at a time; `ablate --ladder seed004` runs them at equal steps.
    "seed004_1": ("course", "technique 1: d_model 80 to 256", {"encoder.d_model": 256}),
    "seed004_1_2": ("seed004_1", "technique 2: dropout 0.1 to 0.3", {"encoder.dropout": 0.3}),
    "seed004_1_3": ("seed004_1_2", "technique 3: Conformer of two layers", _SEED004_CONFORMER),
    "seed004_1_4": ("seed004_1_3", "technique 4: self-attention pooling", {"pooling": "self_attention"}),
    "seed004_1_5": ("seed004_1_4", "technique 5: AM-softmax", {"head": part("am_softmax", scale=30.0, margin=0.35)}),
    "seed004_1_6": ("seed004_1_5", "technique 6: batch 32 to 128, with 8 heads",
                    {"train.batch_size": 128, "encoder.num_heads": 8}),
    "seed004_1_5_7": ("seed004_1_5", "technique 7: max beside attention, batch norm, dropout", _MAX_NORM_DROPOUT),
    "seed004_1_7": ("seed004_1_6", "techniques 1 to 7 together", _MAX_NORM_DROPOUT),
    "seed004_1_5_8": ("seed004_1_5", "technique 8: batch norm alone", {"embedding.batch_norm": True}),
    "seed004_1_5_8_3": ("seed004_1_5_8", "the last step: three layers", {"encoder.num_layers": 3}),
    # The lab's own layers, each with an MLP and with batch norm and one Linear before the classes.
    "lab_transformer": ("course", "own Transformer layers, feed-forward 10, one head", {"encoder": "lab_transformer"}),
    "lab_transformer_norm": ("lab_transformer", "batch norm and one Linear instead of the MLP",
                             {"embedding.batch_norm": True, "head": "linear"}),
    "lab_conformer": ("course", "own Conformer layers, a convolution beside attention", {"encoder": "lab_conformer"}),
    "lab_conformer_norm": ("lab_conformer", "batch norm and one Linear instead of the MLP",
                           {"embedding.batch_norm": True, "head": "linear"}),
}

LADDERS: dict[str, tuple[str, ...]] = {  # the first and the last rung are run with every seed
    "seed004": ("course", "seed004_1", "seed004_1_2", "seed004_1_3", "seed004_1_4", "seed004_1_5", "seed004_1_6",
                "seed004_1_5_7", "seed004_1_7", "seed004_1_5_8", "seed004_1_5_8_3"),
    "lab": ("lab_transformer", "lab_transformer_norm", "lab_conformer", "lab_conformer_norm"),
}


def names() -> list[str]:
    """Return the names of all experiments."""
    return [BASE.name, *EXPERIMENTS]


def get(name: str) -> Experiment:
    """Return an experiment by name, or the one in a promoted .json file; raises SettingError or InputError."""
    if name.endswith(".json"):
        return _read_file(Path(name))
    if name == BASE.name:
        return BASE
    if name not in EXPERIMENTS:
        raise SettingError(f"unknown experiment '{name}'{nearest(name, names())}")
    parent, hypothesis, changes = EXPERIMENTS[name]
    return override(get(parent), {**changes, "name": name, "parent": parent, "hypothesis": hypothesis})


def _read_file(path: Path) -> Experiment:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable experiment file ({error}); write one with `tune promote`") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: an experiment file holds one JSON object")
    return from_json(content)
