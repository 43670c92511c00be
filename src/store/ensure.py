"""Make the store of a competition, or find it made."""

from pathlib import Path

from src.base.files import lock
from src.base.machine import usable_cpus
from src.base.workspace import cache_dir
from src.competition.hashes import HashMemory, hash_files, stamp_files
from src.competition.names import claim
from src.competition.open import Competition
from src.settings.config import Features
from src.store.find import find_store, finished_store, used_settings


def ensure_store(competition: Competition, features: Features, threads: int | None = None) -> Path:
    """Return the directory of the competition's store, building it where it is not there yet.

    threads: how many decode at once, one per CPU core by default; the bytes do not depend on it. A killed build goes on
    from its last whole chunk. Raises SettingError for settings that the input cannot give, InputError for input that is
    missing, unusable or unsafe, RunError when the disk is full.
    """
    if store := find_store(competition, features):
        claim(competition.name, competition.home)
        return store
    settings = used_settings(competition, features)
    folder = cache_dir(competition.name)
    with lock(folder / "preprocess.lock", f"preprocess: waiting for another process that works in {folder}"):
        claim(competition.name, competition.home)
        stamps, memory = stamp_files(competition), HashMemory(competition)
        known = memory.known(stamps)
        if 0 < len(known) < len(stamps) and any(folder.glob(f"{settings['kind']}-*")):  # touched rather than new
            known |= hash_files(competition, [path for path in stamps if path not in known])
            memory.save(stamps, known)
        if store := finished_store(competition, settings, stamps, known):
            return store
        from src.store.build import build_store  # imports torch, which a store that is there does not need

        return build_store(competition, features, settings, stamps, memory, known, threads or usable_cpus())
