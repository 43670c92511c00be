"""The parts of an experiment composed into one model, and its checkpoint, which rebuilds it.

inputs -> [log-mel, for a store of waveforms] -> [mean normalisation] -> encoder -> pooling -> embedding -> head
"""

import json
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from src import finetune
from src.config import Embedding, Experiment, from_json, override, to_json
from src.errors import InputError, SettingError
from src.files import atomic_open
from src.masking import MaskedBatchNorm1d, mean_normalise
from src.parts import build, lookup
from src.tensor_file import check_archive

CHECKPOINT_FORMAT = 1


class SpeakerModel(nn.Module):
    """Who says an utterance: log-mels, cepstra or a waveform in, one logit a speaker out.

    experiment: complete (see src.adapt). kind: "logmel", "cepstra" or "waveform"; input_dim: features a frame of the
    store. num_copies: classes a speaker has in the training head (speed-perturbed copies as speakers of their own);
    logits without labels are always (B, num_speakers), the copies' posteriors summed.
    """

    def __init__(self, experiment: Experiment, kind: str, input_dim: int, num_speakers: int,
                 num_copies: int = 1) -> None:
        super().__init__()
        self.num_speakers, self.num_copies = num_speakers, num_copies
        self.mean_norm = experiment.frontend.mean_norm
        self.log_mel = None
        if kind == "waveform" and lookup("encoder", experiment.encoder.name).takes == "frames":
            from src.frontend import LogMel

            self.log_mel = LogMel(experiment.features)
            input_dim = experiment.features.num_mels
        input_dim *= 2 if self.mean_norm == "both" else 1
        self.encoder = build("encoder", experiment.encoder, input_dim)
        finetune.apply(self.encoder, **vars(experiment.finetune))
        self.pooling = build("pooling", experiment.pooling, self.encoder.output_dim)
        self.embedding = EmbeddingLayers(self.pooling.output_dim, experiment.embedding)
        self.head = build("head", experiment.head, self.embedding.output_dim, num_speakers * num_copies)

    @torch.no_grad()
    def extract(self, inputs: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return what the encoder takes: log-mels (B, T, F) of waveforms (B, N) where it takes frames, else inputs."""
        if self.log_mel is None:
            return inputs, lengths
        frames = self.log_mel(inputs, lengths)
        return frames, None if lengths is None else self.log_mel.num_frames(lengths)

    def embed(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the speaker embedding (B, D) of what `extract` returned."""
        if self.mean_norm:
            normalised = mean_normalise(frames, lengths)
            frames = torch.cat([frames, normalised], 2) if self.mean_norm == "both" else normalised
        return self.embedding(self.pooling(*self.encoder(frames, lengths)))

    def forward(self, frames: Tensor, lengths: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Return logits in float32: (B, num_speakers) without labels, (B, num_speakers * num_copies) with labels (B,).

        Labels (P, B) are P targets of each item, as mixup has them, and give (P, B, num_speakers * num_copies).
        """
        embedding = self.embed(frames, lengths)
        if labels is not None and labels.dim() == 2:
            return torch.stack([self.head(embedding, targets) for targets in labels])
        logits = self.head(embedding, labels)
        if labels is not None or self.num_copies == 1:
            return logits
        return logits.unflatten(1, (self.num_copies, self.num_speakers)).logsumexp(1)


class EmbeddingLayers(nn.Module):
    """Linear projection, batch norm and dropout between pooling and head, each where the experiment asks for it."""

    def __init__(self, input_dim: int, embedding: Embedding) -> None:
        super().__init__()
        self.output_dim = embedding.dim or input_dim
        self.projection = nn.Linear(input_dim, embedding.dim) if embedding.dim else nn.Identity()
        self.norm = MaskedBatchNorm1d(self.output_dim) if embedding.batch_norm else nn.Identity()
        self.dropout = nn.Dropout(embedding.dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return (B, output_dim) of pooled vectors (B, input_dim)."""
        return self.dropout(self.norm(self.projection(pooled)))


def num_parameters(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def save_model(path: Path, model: SpeakerModel, experiment: Experiment, kind: str, input_dim: int,
               speakers: tuple[str, ...]) -> None:
    """Write a checkpoint that `load_model` rebuilds the model from, atomically."""
    content = {"format": CHECKPOINT_FORMAT, "experiment": to_json(experiment), "kind": kind, "input_dim": input_dim,
               "speakers": list(speakers), "num_copies": model.num_copies}
    # New strings: a pickle's bytes tell which equal ones are one object, which differs from process to process.
    content = json.loads(json.dumps(content)) | {"model": model.state_dict()}
    with atomic_open(path, "wb") as file:
        torch.save(content, file)


def load_model(path: Path, device: str = "cpu") -> tuple[SpeakerModel, Experiment, tuple[str, ...]]:
    """Return the model of a checkpoint in eval mode, its experiment and its speakers.

    Raises InputError for a file that is no checkpoint of this project or that carries anything but plain values.
    """
    content = load_tensors(path)
    if content.get("format") != CHECKPOINT_FORMAT:
        raise InputError(f"{path}: not a model of this version; train it again")
    try:
        experiment, speakers = from_json(content["experiment"]), tuple(content["speakers"])
        model = SpeakerModel(without_start(experiment), content["kind"], content["input_dim"], len(speakers),
                             content["num_copies"])
        finetune.fit_heads(model, content["model"])
        model.load_state_dict(content["model"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, SettingError) as error:
        raise InputError(f"{path}: its settings and weights do not fit this version ({type(error).__name__}: {error}); "
                         "train it again") from error
    return model.to(device).eval(), experiment, speakers


def without_start(experiment: Experiment) -> Experiment:
    """Return the experiment without the weights that its encoder once started from; a checkpoint needs them no more."""
    none = {"weights": "", "download": False}
    return override(experiment, {f"encoder.{key}": value for key, value in none.items()
                                 if experiment.encoder.kwargs.get(key)})


def load_tensors(path: Path) -> dict:
    """Return the dict of tensors and plain values in a .pt file; code in it is refused, never run."""
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Exception as error:  # torch raises many kinds for torn, foreign and unsafe files
        raise InputError(f"{path}: not a file of tensors and plain values, or torn or changed; refused: fetch it or "
                         "train it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no dictionary; not written by this project")
    return content
