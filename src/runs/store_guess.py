"""Which store a run is made from, be it finished or not: what it says itself, or else what its name tells."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src.base.errors import SpeakerIDError
from src.base.files import read_json
from src.base.workspace import cache_dir
from src.runs.plan import make_plan
from src.settings.config import from_json


def find_store_of(run_dir: Path) -> Path | None:
    """Return the store that a run, finished or not, is made from; None where it is gone."""
    wanted = store_digest(run_dir)
    return next((path for path, meta in stores(run_dir.parent.name) if meta["digest"] == wanted), None)


def store_digest(run_dir: Path) -> str | None:
    """Return the digest of a run's store: as its result says, else of the store that gives the run its name."""
    if (run_dir / "result.json").exists():
        return read_json(run_dir / "result.json").get("store")
    if not (run_dir / "experiment.json").exists():
        return None
    named = run_dir.name.rpartition("-")[2]
    content = read_json(run_dir / "experiment.json")
    for path, meta in stores(run_dir.parent.name):
        # a store of another kind, settings of another version or machine, a file of weights that is gone
        with contextlib.suppress(SpeakerIDError, KeyError, TypeError):
            if make_plan(run_dir.parent.name, path, from_json(content)).digest.startswith(named):
                return meta["digest"]
    return None


def stores(competition: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the whole stores of a competition that preprocess made, with what they say of themselves."""
    for path in sorted(cache_dir(competition).glob("*/meta.json")):
        with contextlib.suppress(OSError, ValueError):
            meta = read_json(path)
            if path.parent.name == f"{meta.get('kind')}-{meta.get('digest', '')[:8]}":
                yield path.parent, meta
