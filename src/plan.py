"""What a run or a blend will be before it is done: its digest, its name and its place.

Imports no torch, so that a finished run is recognised at once.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from src.adapt import SESSION_MODULES, SESSION_RATE, DataSummary, adapt
from src.config import Experiment, override
from src.encoder_file import hash_weights
from src.errors import RunError, SettingError, nearest
from src.files import digest, read_json
from src.parts import essential, lookup
from src.pseudo_labels import PSEUDO_LABELS
from src.workspace import cache_dir, runs_dir

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
    _check(complete, meta["settings"].get("sample_rate", SESSION_RATE))  # the course's log-mels do not say it
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


def can_hold_out(store_dir: Path) -> bool:
    """Return whether utterances of a finished store can be held out while training still hears their speakers."""
    return DataSummary.from_json(read_json(store_dir / "meta.json")["summary"]).num_groups > 1


def _check(complete: Experiment, sample_rate: int) -> None:
    """Raise SettingError where a model of speakers cannot be trained so on audio of this rate."""
    if complete.embedding.batch_norm and complete.train.batch_size == complete.train.processes:
        raise SettingError(f"train.batch_size={complete.train.batch_size}: batch norm needs two utterances at least in "
                           "each process; make it larger, or set embedding.batch_norm=false")
    for item in complete.augment:
        if sample_rate != SESSION_RATE and lookup("augment", item.name).module in SESSION_MODULES:
            raise SettingError(f"augment: '{item.name}' imitates rooms and lines at {SESSION_RATE} Hz, and the store "
                               f"holds {sample_rate} Hz; leave features.sample_rate at {SESSION_RATE} (other audio is "
                               "resampled), or set augment=[]")


def find_run(name: str) -> Path:
    """Return the folder of the one run whose `<competition>/<experiment>-<digest8>` starts with `name`.

    Of several the one that is finished, where only one is. A name without a competition is looked for in all of them.
    Raises SettingError when none or several match.
    """
    root = runs_dir()
    ids = [f"{path.parent.name}/{path.name}" for path in root.glob("*/*-*") if path.is_dir()]
    if name in ids:
        return root / name
    matches = sorted(i for i in ids if i.startswith(name) or i.partition("/")[2].startswith(name))
    finished = [match for match in matches if (root / match / "result.json").exists()]
    matches = finished if len(finished) == 1 else matches  # what was begun and left is seldom meant
    if len(matches) == 1:
        return root / matches[0]
    if matches:
        raise SettingError(f"run '{name}' is not unique: {', '.join(matches[:8])}")
    raise SettingError(f"no run '{name}'{nearest(name, ids)}")


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


def read_result(run_dir: Path) -> dict[str, Any]:
    """Return what a finished run or blend says of itself; raises RunError for an unfinished one."""
    path = run_dir / "result.json"
    if not path.exists():
        raise RunError(f"{run_dir}: the run is not finished; run its train stage first")
    result = read_json(path)
    if result.get("metric", "accuracy") != "accuracy":
        raise SettingError(f"{run_dir.name}: its result is a {result['metric']}; only runs that classify can be "
                           "blended and submitted")
    if "store" not in result:
        raise SettingError(f"{run_dir.name}: not a run on a competition's speakers, so it can be neither blended nor "
                           "submitted")
    return result


def store_of(run_dir: Path) -> Path:
    """Return the store that a finished run or blend was made from; raises RunError when it is gone."""
    wanted = read_json(run_dir / "result.json")["store"]
    for meta in cache_dir(run_dir.parent.name).glob("*/meta.json"):
        if read_json(meta)["digest"] == wanted:
            return meta.parent
    raise RunError(f"{run_dir.name}: its store {wanted[:8]} is gone; the preprocess stage with the run's --data, "
                   "--experiment and --set makes it again")


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
