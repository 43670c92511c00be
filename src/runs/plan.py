"""What a run will be before it is done: its complete experiment, its digest, its name and its place.

Imports no torch, so that a finished run is recognised at once.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from src.base.errors import SettingError
from src.base.files import digest, read_json
from src.base.workspace import runs_dir
from src.runs.folder import Run, blend_of
from src.settings.auto import DataSummary, adapt
from src.settings.config import Experiment, override
from src.settings.parts import essential, lookup
from src.settings.weights import hash_weights

VERSION = 2  # raise it when training code changes what a run computes


@dataclass(frozen=True)
class Plan:
    """A run before it is done: its complete experiment, its store and its place."""

    competition: str
    experiment: Experiment
    store_dir: Path
    digest: str

    @property
    def run_id(self) -> str:
        """<competition>/<experiment>-<digest8>."""
        return f"{self.competition}/{self.experiment.name}-{self.digest[:8]}"

    @property
    def directory(self) -> Path:
        """The run's folder."""
        return runs_dir() / self.run_id

    @property
    def run(self) -> Run:
        """The run on disk."""
        return Run(self.directory)

    @property
    def pseudo_labels(self) -> Run:
        """The blend whose predictions join the training part, where the experiment has any."""
        return Run(runs_dir() / self.experiment.train.pseudo_labels)

    def is_done(self) -> bool:
        """Return whether every fold has been trained."""
        return self.run.is_done()


def make_plan(competition: str, store_dir: Path, experiment: Experiment) -> Plan:
    """Return what a run of `experiment` on a finished store will be. Raises SettingError for what cannot work."""
    meta = read_json(store_dir / "meta.json")
    complete = adapt(experiment, DataSummary.from_json(meta["summary"]))
    _check(complete, meta["settings"].get("sample_rate"))  # which the course's log-mels do not say
    content = {}
    if complete.train.pseudo_labels:
        blend = _find_pseudo_labels(complete.train.pseudo_labels, competition)
        complete = override(complete, {"train.pseudo_labels": blend.run_id})
        content["pseudo_labels"] = hashlib.sha256(blend.pseudo_labels_path.read_bytes()).hexdigest()
    settings = hash_weights(essential(complete))
    if meta["kind"] != "waveform":  # what preprocess used of them is in the store's digest; the model uses none
        settings.pop("features", None)
    content |= {"stage": "train", "version": VERSION, "store": meta["digest"], "settings": settings}
    return Plan(competition, complete, store_dir, digest(content))


def can_hold_out(store_dir: Path) -> bool:
    """Return whether utterances of a finished store can be held out while training still hears their speakers."""
    return DataSummary.from_json(read_json(store_dir / "meta.json")["summary"]).num_groups > 1


def _check(complete: Experiment, sample_rate: int | None) -> None:
    """Raise SettingError where a model of speakers cannot be trained so on audio of this rate."""
    if complete.embedding.batch_norm and complete.train.batch_size == complete.train.processes:
        raise SettingError(f"train.batch_size={complete.train.batch_size}: batch norm needs two utterances at least in "
                           "each process; make it larger, or set embedding.batch_norm=false")
    for item in complete.augment:
        imitated = lookup("augment", item.name).sample_rate
        if sample_rate and imitated and sample_rate != imitated:
            raise SettingError(f"augment: '{item.name}' imitates rooms and lines at {imitated} Hz, and the store "
                               f"holds {sample_rate} Hz; leave features.sample_rate at {imitated} (other audio is "
                               "resampled), or set augment=[]")


def _find_pseudo_labels(name: str, competition: str) -> Run:
    """Return the blend of this name, or the finished run's own blend, by a unique prefix."""
    run = Run.find(name if "/" in name else f"{competition}/{name}")
    if run.competition != competition:
        raise SettingError(f"train.pseudo_labels={name}: predictions of another competition than '{competition}'")
    blend = run if run.is_blend else blend_of([run])
    if not blend.pseudo_labels_path.exists():
        raise SettingError(f"train.pseudo_labels={name}: no predictions yet; run `bash run.sh ensemble {run.run_id}` "
                           "first")
    return blend
