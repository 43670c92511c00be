"""Fold models as one graph that ONNX can hold: waveforms or frames in, calibrated probabilities out.

Goes in: fold models. Comes out: an nn.Module without complex numbers, and the ONNX file of it, with every length and
batch size left open. Used by export.
"""

import contextlib
import json
import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.transforms import MelSpectrogram

from src.apps.predict.fold_models import FoldModels
from src.apps.predict.model_card import ModelCard
from src.apps.predict.onnx_model import INPUTS, METADATA_KEY, OUTPUTS
from src.base.errors import RunError
from src.base.files import atomic_open
from src.model.frontend import LogMel
from src.model.masking import zero_padding
from src.runs.calibration import average_folds
from src.store import audio_file as audio

LARGEST_CONSTANT = 2**28  # bytes
FRONTEND = "log_mel."  # what the names of the log-mel's tensors begin with
EXAMPLE_FRAMES = 431  # long enough that no encoder is traced in a special case of a short utterance


class MelByConvolution(nn.Module):
    """The mel power spectra of torchaudio's MelSpectrogram (center=False), their DFT a convolution with its basis.

    Nothing is complex, so that every runtime has the operators. Agrees to float32's rounding.
    """

    def __init__(self, mel: MelSpectrogram) -> None:
        super().__init__()
        spectrogram = mel.spectrogram
        n_fft, left = spectrogram.n_fft, (spectrogram.n_fft - spectrogram.win_length) // 2
        window = F.pad(spectrogram.window.double(), (left, n_fft - spectrogram.win_length - left))
        turns = torch.arange(n_fft // 2 + 1)[:, None] * torch.arange(n_fft) % n_fft  # exact, whatever n_fft
        angle = turns.double() * (2 * math.pi / n_fft)
        self.hop_length = spectrogram.hop_length
        self.register_buffer("basis", (torch.cat([angle.cos(), angle.sin()]) * window).float()[:, None])
        self.register_buffer("bands", mel.mel_scale.fb)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return power (B, num_mels, T) of waveforms (B, N)."""
        real, imaginary = F.conv1d(waveform[:, None], self.basis, stride=self.hop_length).chunk(2, 1)
        power = real.square() + imaginary.square()
        return (power.transpose(1, 2) @ self.bands).transpose(1, 2)


class SpeakerGraph(nn.Module):
    """Map waveforms (B, N) or frames (B, T, F) with lengths (B,) to probs, log_probs and energy, as FoldModels do.

    from_audio: whether the input is a waveform, at the run's peak and sample rate. Numbers are rounded where the store
    rounds them. Test-time crops (infer.crops) are left out: whole utterances only.
    """

    def __init__(self, models: FoldModels, from_audio: bool) -> None:
        super().__init__()
        self.models = nn.ModuleList(models.models)
        self.encoder_name, self.temperature = models.experiment.encoder.name, models.card.temperature
        self.rounds_samples, self.rounds_frames = models.kind == "waveform", models.kind == "logmel"
        self.log_mel = None
        if from_audio and (models.log_mel or models.models[0].log_mel):
            self.log_mel = LogMel(models.features)
            self.log_mel.mel = MelByConvolution(self.log_mel.mel)

    def forward(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities and log-probabilities (B, C) and energies (B,)."""
        inputs = zero_padding(inputs, lengths)
        if self.rounds_samples:
            inputs = inputs.mul(32768).round().clamp(-32768, 32767).div(32768)
        if self.log_mel is not None:
            # One window of silence behind the end, so that no waveform is too short: `lengths` hides its frames.
            inputs = self.log_mel(F.pad(inputs, (0, self.log_mel.n_fft)), lengths)
            lengths = self.log_mel.num_frames(lengths)
        if self.rounds_frames:
            inputs = inputs.half().float()
        return combine([model(inputs, lengths) for model in self.models], self.temperature)


def combine(fold_logits: list[Tensor], temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return (probs, log_probs, energy) of each fold's logits (B, C), as calibration.average_folds and energy do."""
    logits = torch.stack(fold_logits)
    log_probs = (logits.log_softmax(2).mean(0) / temperature).log_softmax(1)
    return log_probs.exp(), log_probs, logits.logsumexp(2).mean(0)


def replace_inputs(card: ModelCard, from_audio: bool, input_dim: int) -> ModelCard:
    """Return the card of a graph that takes waveforms, or frames of `input_dim` values, and not both."""
    return replace(card, takes_audio=from_audio, dim=0 if from_audio else input_dim)


def example(models: FoldModels, from_audio: bool, num_frames: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Return inputs of `num_frames` frames' time, noise at the size of speech, and lengths, each item a bit shorter."""
    generator = torch.Generator().manual_seed(num_frames)
    if from_audio or models.kind == "waveform":
        size = num_frames * models.features.hop_length
        inputs = (0.1 * torch.randn(batch_size, size, generator=generator)).clamp(-0.7, 0.7)
    else:
        size = num_frames
        inputs = torch.randn(batch_size, size, models.input_dim, generator=generator)
    return inputs, size - torch.arange(batch_size) * (size // 5)


@torch.no_grad()
def reference(models: FoldModels, inputs: Tensor, lengths: Tensor) -> np.ndarray:
    """Return the calibrated log-probabilities (B, C) that the fold models themselves give, through torch.stft."""
    if models.kind == "waveform":
        inputs = audio.to_int16(inputs.clone()).float() / 32768
    elif inputs.dim() == 2:
        inputs, lengths = models.log_mel(inputs, lengths), models.log_mel.num_frames(lengths)
    if models.kind == "logmel":
        inputs = inputs.half().float()
    logits = [model(*model.extract(inputs, lengths)).numpy() for model in models.models]
    return average_folds(np.stack(logits), models.card.temperature)


def write_graph(graph: SpeakerGraph, inputs: tuple[Tensor, Tensor], card: ModelCard, path: Path) -> None:
    """Write the ONNX file of a graph, traced on `inputs`, with the card in its metadata.

    Raises RunError, naming the encoder, for a model that the exporter cannot follow.
    """
    from onnxscript.optimizer import optimize

    auto = torch.export.Dim.AUTO
    time_and_batch = {0: auto, 1: auto}
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(graph.eval(), inputs, dynamic_shapes=(time_and_batch, {0: auto}))
            content = torch.onnx.export(program, dynamo=True, verbose=False, input_names=list(INPUTS),
                                        output_names=list(OUTPUTS)).model_proto
            # The exporter leaves constants over 8 kB to be reshaped at each call, and the quantiser cannot read those.
            content = optimize(content, input_size_limit=LARGEST_CONSTANT, output_size_limit=LARGEST_CONSTANT)
    except Exception as error:  # both exporters raise many kinds; what they say names the operation
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise RunError(f"encoder '{graph.encoder_name}' cannot be exported to ONNX: {reason}") from error
    entry = content.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(card.to_json(), ensure_ascii=False)
    with atomic_open(path, "wb") as file:
        file.write(content.SerializeToString())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the warnings of exporter and quantiser (torchvision is missing, calls of their own) from the person."""
    kept = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(kept)
