"""Every fold's model of a finished run, answering new recordings as the run's own test set was answered.

Goes in: pieces of audio or frames. Comes out: calibrated log-probabilities. A piece goes through the reading and
feature code of preprocess into a store in memory, and from there through the inference of train.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from src.apps.predict.model_card import ModelCard
from src.apps.predict.recordings import Recording
from src.base.errors import RunError, SettingError
from src.base.files import read_json
from src.base.machine import has_gpu
from src.base.torch_files import load_tensors
from src.model.checkpoint import load_model
from src.model.frontend import LogMel
from src.runs.calibration import average_folds, energy, fit_temperature
from src.runs.folder import Run
from src.store import audio_file as audio
from src.store.store import DTYPES, Store
from src.training.evaluate import predict


class FoldModels:
    """The models of a run's folds, averaged as log-posteriors.

    folds: which of them, all by default. device: "cpu" or "cuda", by default the best that is there. Raises
    SettingError for a fold that the run does not have.
    """

    def __init__(self, run: Run, folds: tuple[int, ...] = (), device: str = "") -> None:
        paths = [fold.model_path for fold in run.folds]
        if any(not 0 <= fold < len(paths) for fold in folds):
            raise SettingError(f"--fold: {run.run_id} has the folds 0 to {len(paths) - 1}")
        paths = [paths[fold] for fold in folds] or paths
        content = load_tensors(paths[0])
        self.kind, self.input_dim = content["kind"], content["input_dim"]
        self.device = device or ("cuda" if has_gpu() else "cpu")
        loaded = [load_model(path, self.device) for path in paths]
        self.models = [model for model, _, _ in loaded]
        self.experiment, self.speakers = loaded[0][1:]
        self.features = self.experiment.features
        self.log_mel = LogMel(self.features) if self.kind == "logmel" else None
        self.card = self._card(run)

    def answer(self, pieces: list[Recording]) -> tuple[np.ndarray, np.ndarray]:
        """Return calibrated log-probabilities (N, C) of the pieces and their energies (N,), the mean over folds."""
        logits = self.logits(pieces)
        return average_folds(logits, self.card.temperature), energy(logits).mean(0)

    def logits(self, pieces: list[Recording]) -> np.ndarray:
        """Return each fold's logits (K, N, C) of the pieces."""
        store = self._store([self._stored(piece) for piece in pieces])
        train = replace(self.experiment.train, device=self.device)
        rows = np.arange(len(pieces))
        return np.stack([predict(model, store, rows, train, self.experiment.infer) for model in self.models])

    def _stored(self, piece: Recording) -> np.ndarray:
        """Return what preprocess would store of a piece."""
        if not piece.is_audio:
            return piece.values.astype(DTYPES[self.kind])
        waveform = audio.standardise(piece.values.copy(), int(piece.rate), self.features)
        if self.log_mel is None:
            return audio.to_int16(waveform).numpy()
        return torch.cat([block.half() for block in self.log_mel.blocks(waveform)]).numpy()

    def _store(self, stored: list[np.ndarray]) -> Store:
        """Return a store in memory of these utterances, all of them unlabelled."""
        lengths = np.array([len(item) for item in stored], np.int64)
        frames, rows, blank = np.concatenate(stored), np.arange(len(stored)), [""] * len(stored)
        return Store(Path(), "", self.kind, 0 if frames.ndim == 1 else frames.shape[1], self.speakers,
                     {"hop_length": self.features.hop_length}, blank, np.full(len(stored), -1), blank, blank, rows[:0],
                     rows, np.cumsum(lengths) - lengths, lengths, frames, torch.from_numpy(frames)).to(self.device)

    def _card(self, run: Run) -> ModelCard:
        features = self.features
        open_set = read_json(run.open_set_path) if run.open_set_path.exists() else None
        fits = self.kind == "logmel" and self.input_dim == features.num_mels
        temperature, num_calibrated = _calibrate(run)
        if open_set and not num_calibrated:  # the same experiment with speakers left out has held utterances out
            temperature, num_calibrated = open_set["temperature"], open_set["num_known"]
        return ModelCard(
            name=run.run_id, speakers=self.speakers, num_folds=len(self.models),
            takes_audio=fits or self.kind == "waveform", sample_rate=features.sample_rate, peak_db=features.peak_db,
            dim=0 if self.kind == "waveform" else self.input_dim,
            frame_rate=features.sample_rate / features.hop_length if self.kind == "logmel" else 0.0,
            temperature=temperature, num_calibrated=num_calibrated,
            open_set=open_set)


def _calibrate(run: Run) -> tuple[float, int]:
    """Return the run's temperature and on how many utterances it was fitted: 1 and 0 where none is held out."""
    rows, logits = run.held_out()
    if not len(rows):
        return 1.0, 0
    try:
        labels = Store.open(run.store_dir()).labels[rows]
    except RunError:  # the models answer without the store
        return 1.0, 0
    return fit_temperature(logits, labels), len(rows)
