"""Where things lie: the project, its data, and the workspace that a run writes to.

The workspace is the project itself. Tests and --smoke point SPEAKER_ID_WORKSPACE elsewhere, so that they
never touch the tracked ledger and submissions.
"""

import os
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parents[2]
DATA_DIR = PROJECT_DIR / "data"
VARIABLE = "SPEAKER_ID_WORKSPACE"
FOLDERS = ("cache", "runs", "studies")  # of a workspace's data, all made by the project


def workspace_dir() -> Path:
    """Return the folder that this process writes to."""
    return Path(os.environ.get(VARIABLE) or PROJECT_DIR)


def use_smoke_workspace() -> None:
    """Send everything that this process writes to data/smoke, unless a workspace is already named."""
    os.environ.setdefault(VARIABLE, str(DATA_DIR / "smoke"))


def cache_dir(competition: str) -> Path:
    """Return the folder of a competition's stores and of its remembered file hashes."""
    return workspace_dir() / "data" / "cache" / competition


def runs_dir(competition: str = "") -> Path:
    """Return the folder of a competition's runs, or of all runs."""
    return workspace_dir() / "data" / "runs" / competition


def submissions_dir(competition: str) -> Path:
    """Return the folder that keeps a competition's submissions."""
    return workspace_dir() / "submissions" / competition


def ledger_path() -> Path:
    """Return the ablation ledger's path."""
    return workspace_dir() / "ablations.csv"
