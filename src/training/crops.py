"""The crops that a fold is trained on: which utterances a step takes, from where, and what fills short ones up."""

import numpy as np

from src.base import distributed
from src.settings.config import Experiment
from src.store.batch import Batch
from src.store.store import Store
from src.training.sampler import CropSampler


class TrainingCrops:
    """The crops of every step of a fold.

    store: on the device that trains. rows: (N,) store rows of the utterances that are learnt from.
    """

    def __init__(self, store: Store, rows: np.ndarray, experiment: Experiment, fold: int) -> None:
        train = experiment.train
        self.store, self.batch_size, self.device = store, train.batch_size, train.device
        self.size = train.crop_frames * store.samples_per_frame
        self.repeats = {"pad": False, "repeat": True, "device": train.device == "cuda"}[train.short]
        self.sampler = CropSampler(rows, store.num_frames[rows], store.labels[rows], seed=experiment.seed, fold=fold,
                                   crop_frames=self.size, balanced=train.balanced)

    def batch(self, step: int) -> Batch:
        """Return a step's crops, of several processes this one's share, on the device that trains."""
        rows, starts = self.sampler.take(*distributed.share(step * self.batch_size, self.batch_size))
        return self.store.crops(rows, starts, self.size, self.repeats).to(self.device)
