"""What a run or a blend will be before it is done: its digest, its name and its place.

Imports no torch, so that a finished run is recognised at once.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from src.base.errors import SettingError
from src.base.files import digest, read_json
from src.base.workspace import runs_dir
from src.runs.folder import find_run, read_result
from src.runs.pseudo_labels import PSEUDO_LABELS
from src.settings.auto import DataSummary, adapt
from src.settings.config import Experiment, override
from src.settings.parts import essential, lookup
from src.settings.weights import hash_weights

VERSION = 2  # raise it when training code changes what a run computes
ENSEMBLE_VERSION = 3  # raise it when the ensemble stage's code changes what a blend computes

ClassCounts = Literal["auto", "even", "any"]  # of the test part: told by the predictions, all the same, unknown


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
    def pseudo_labels_path(self) -> Path:
        """The file of predictions that join the training part, where the experiment has any."""
        return runs_dir() / self.experiment.train.pseudo_labels / PSEUDO_LABELS

    def is_done(self) -> bool:
        """Return whether every fold has been trained."""
        return (self.directory / "result.json").exists()


def make_plan(competition: str, store_dir: Path, experiment: Experiment) -> Plan:
    """Return what a run of `experiment` on a finished store will be. Raises SettingError for what cannot work."""
    meta = read_json(store_dir / "meta.json")
    complete = adapt(experiment, DataSummary.from_json(meta["summary"]))
    _check(complete, meta["settings"].get("sample_rate"))  # which the course's log-mels do not say
    content = {}
    if complete.train.pseudo_labels:
        path = _find_pseudo_labels(complete.train.pseudo_labels, competition)
        complete = override(complete, {"train.pseudo_labels": f"{competition}/{path.parent.name}"})
        content["pseudo_labels"] = hashlib.sha256(path.read_bytes()).hexdigest()
    settings = hash_weights(essential(complete))
    if meta["kind"] != "waveform":  # what preprocess used of them is in the store's digest; the model uses none
        settings.pop("features", None)
    content |= {"stage": "train", "version": VERSION, "store": meta["digest"], "settings": settings}
    return Plan(competition, complete, store_dir, digest(content))


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


def ensemble_dir(run_dirs: list[Path], classes: ClassCounts = "auto") -> Path:
    """Return where the blend of these runs, with what is known of the test part's classes, lies or will lie.

    Raises RunError for an unfinished run, SettingError for runs that are not about the same utterances.
    """
    results = [read_result(path) for path in run_dirs]
    for result in results:
        if "members" in result:
            raise SettingError(f"{result['run_id']} is a blend itself; name its runs: {', '.join(result['members'])}")
    if len({r["table"] for r in results}) != 1:
        raise SettingError("the runs are not about the same utterances, speakers and groups (or an older version made "
                           "some of them); train them again: " + ", ".join(r["run_id"] for r in results))
    return run_dirs[0].parent / f"ensemble-{blend_digest(results, classes)[:8]}"


def blend_digest(results: list[dict[str, Any]], classes: ClassCounts) -> str:
    """Return the digest of the blend of runs that say these results of themselves."""
    return digest({"stage": "ensemble", "version": ENSEMBLE_VERSION, "runs": sorted(r["digest"] for r in results),
                   "classes": classes})


def _find_pseudo_labels(name: str, competition: str) -> Path:
    """Return the predictions of a blend, or of a finished run's own blend, by a unique prefix of its name."""
    run_dir = find_run(name if "/" in name else f"{competition}/{name}")
    if run_dir.parent.name != competition:
        raise SettingError(f"train.pseudo_labels={name}: predictions of another competition than '{competition}'")
    blend_dir = run_dir if run_dir.name.startswith("ensemble-") else ensemble_dir([run_dir])
    if not (blend_dir / PSEUDO_LABELS).exists():
        raise SettingError(f"train.pseudo_labels={name}: no predictions yet; run `bash run.sh ensemble "
                           f"{competition}/{run_dir.name}` first")
    return blend_dir / PSEUDO_LABELS
