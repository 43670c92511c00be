"""What a run will be before it is done: a complete experiment on a store, its digest, its name and its place.

Imports no torch, so that a finished run is recognised at once.
"""

from dataclasses import dataclass
from pathlib import Path

from src.adapt import DataSummary, adapt
from src.config import Experiment
from src.errors import SettingError, nearest
from src.files import digest, read_json
from src.parts import essential
from src.workspace import runs_dir

VERSION = 1  # raise it when training code changes what a run computes


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

    def is_done(self) -> bool:
        """Return whether every fold has been trained."""
        return (self.directory / "result.json").exists()


def make_plan(competition: str, store_dir: Path, experiment: Experiment) -> Plan:
    """Return what a run of `experiment` on a finished store will be. Raises SettingError for what cannot work."""
    meta = read_json(store_dir / "meta.json")
    complete = adapt(experiment, DataSummary(**meta["summary"]))
    settings = essential(complete)
    if meta["kind"] != "waveform":  # what preprocess used of them is in the store's digest; the model uses none
        settings.pop("features", None)
    content = {"stage": "train", "version": VERSION, "store": meta["digest"], "settings": settings}
    return Plan(competition, complete, store_dir, digest(content))


def find_run(name: str) -> Path:
    """Return the folder of the one run whose `<competition>/<experiment>-<digest8>` starts with `name`.

    A name without a competition is looked for in all of them. Raises SettingError when none or several match.
    """
    root = runs_dir()
    ids = [f"{path.parent.name}/{path.name}" for path in root.glob("*/*-*") if path.is_dir()]
    if name in ids:
        return root / name
    matches = sorted(i for i in ids if i.startswith(name) or i.partition("/")[2].startswith(name))
    if len(matches) == 1:
        return root / matches[0]
    if matches:
        raise SettingError(f"run '{name}' is not unique: {', '.join(matches[:8])}")
    raise SettingError(f"no run '{name}'{nearest(name, ids)}")
