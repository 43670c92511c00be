"""The models of every run of a blend, answering new recordings with the weights that the blend was fitted with."""

from dataclasses import replace

import numpy as np

from src.apps.predict.fold_models import FoldModels
from src.apps.predict.recordings import Recording
from src.base.errors import RunError
from src.base.workspace import runs_dir
from src.runs.calibration import average_folds, energy
from src.runs.folder import Run
from src.runs.logits import log_softmax


class BlendModels:
    """A blend's runs, each with all of its folds; runs of weight 0 are left out.

    device: "cpu" or "cuda", by default the best that is there. Raises RunError where a run of the blend is gone.
    """

    def __init__(self, blend: Run, device: str = "") -> None:
        weights = {run_id: weight for run_id, weight in blend.result["members"].items() if weight > 0.0}
        runs = [Run(runs_dir() / run_id) for run_id in weights]
        if gone := [run.run_id for run in runs if not run.has_models()]:
            raise RunError(f"{blend.run_id}: the models of {', '.join(gone)} are gone; train them again")
        self.members = [(weight, FoldModels(run, device=device)) for weight, run in zip(weights.values(), runs)]
        first = self.members[0][1].card
        # The weights are fitted on out-of-fold logits and need not sum to one: their sum is an inverse temperature.
        self.card = replace(
            first, name=blend.run_id, num_folds=sum(models.card.num_folds for _, models in self.members),
            takes_audio=all(models.card.takes_audio for _, models in self.members), temperature=1.0,
            num_calibrated=blend.result["num_valid"], open_set=None)

    def answer(self, pieces: list[Recording]) -> tuple[np.ndarray, np.ndarray]:
        """Return log-probabilities (N, C) of the pieces and their energies (N,), both weighted over the runs."""
        logits = [(weight, models.logits(pieces)) for weight, models in self.members]
        scores = sum(weight * average_folds(of_folds, 1.0) for weight, of_folds in logits)
        total = sum(weight for weight, _ in logits)
        energies = sum(weight * energy(of_folds).mean(0) for weight, of_folds in logits) / total
        return log_softmax(scores), energies


def models_of(run: Run) -> FoldModels | BlendModels:
    """Return what answers for a run or a blend; raises SettingError or RunError for one without speaker models."""
    return BlendModels(run) if run.is_blend else FoldModels(Run.open(run.run_id))
