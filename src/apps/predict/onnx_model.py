"""An exported model, run by onnxruntime: the same answers as fold_models gives, without torch in the process.

Goes in: an ONNX file that export wrote; its metadata holds the model card. Audio is scaled and, by soxr, resampled
here, and everything from there on is in the graph.
"""

import json
from pathlib import Path

import numpy as np

from src.apps.predict.model_card import ModelCard
from src.apps.predict.onnx_packages import require
from src.apps.predict.recordings import Recording
from src.base.errors import InputError
from src.base.torch_files import CorruptFile

METADATA_KEY = "speaker_id"
INPUTS, OUTPUTS = ("inputs", "lengths"), ("probs", "log_probs", "energy")


class OnnxModel:
    """A model in an ONNX file. Raises InputError for a file that is none of ours, RunError without onnxruntime."""

    def __init__(self, path: Path) -> None:
        onnxruntime = require("onnxruntime")
        try:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4  # an error is raised; it need not be printed too
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            metadata = self.session.get_modelmeta().custom_metadata_map
            self.card = ModelCard.from_json(json.loads(metadata[METADATA_KEY]))
        except Exception as error:  # onnxruntime has an exception class for each of its codes, none of them public
            raise InputError(f"{path}: not a model that `export` of this version wrote "
                             f"({str(error).splitlines()[0][:200]}); export the run again") from error

    def answer(self, pieces: list[Recording]) -> tuple[np.ndarray, np.ndarray]:
        """Return calibrated log-probabilities (N, C) of the pieces and their energies (N,).

        Raises CorruptFile for audio that cannot be resampled.
        """
        results = [self.run(self.prepare(piece)[None]) for piece in pieces]
        return np.concatenate([log_probs for log_probs, _ in results]), np.concatenate([e for _, e in results])

    def run(self, inputs: np.ndarray, lengths: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return log-probabilities (B, C) and energies (B,) of waveforms (B, N) or frames (B, T, F).

        lengths: (B,) valid samples or frames; None where each item fills the whole length.
        """
        if lengths is None:
            lengths = np.full(len(inputs), inputs.shape[1], np.int64)
        return tuple(self.session.run(OUTPUTS[1:], dict(zip(INPUTS, (inputs, lengths)))))

    def prepare(self, piece: Recording) -> np.ndarray:
        """Return frames as they are, and audio at the model's peak and then at its sample rate, as preprocess does."""
        if not piece.is_audio:
            return piece.values
        peak = max(float(np.abs(piece.values).max()), 1e-6)
        waveform = piece.values / np.float32(peak) * np.float32(10 ** (self.card.peak_db / 20))
        if piece.rate == self.card.sample_rate:
            return waveform
        try:
            return require("soxr").resample(waveform, piece.rate, self.card.sample_rate)
        except (ValueError, RuntimeError) as error:
            raise CorruptFile(f"{piece.rate:g} Hz cannot be resampled to {self.card.sample_rate} Hz") from error
