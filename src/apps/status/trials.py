"""A search's trials as its storage knows them; imports Optuna, which `status` needs only where there are searches."""

from pathlib import Path

import optuna

from src.base.errors import SpeakerIDError
from src.search.storage import open_storage
from src.search.study import num_finished


def trials_of(storage_path: Path, study_name: str) -> tuple[int | None, float | None, str]:
    """Return a study's finished trials, its best value, and why they are not known."""
    if not storage_path.exists():
        return None, None, "in a storage elsewhere"
    try:
        study = optuna.load_study(study_name=study_name, storage=open_storage(f"sqlite:///{storage_path}"))
        complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        return num_finished(study), max((trial.value for trial in complete), default=None), ""
    except (KeyError, SpeakerIDError) as error:
        return None, None, f"not in {storage_path.name}" if isinstance(error, KeyError) else str(error)
