"""Find the store of a competition: its settings, digest and place, and whether it is whole."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.base.errors import SettingError
from src.base.files import digest, read_json
from src.base.workspace import cache_dir
from src.competition.hashes import HashMemory, Stamp, content_digest, stamp_files
from src.competition.open import Competition
from src.settings.config import Features

VERSION = 1  # raised when the same input and settings would give another store


def find_store(competition: Competition, features: Features) -> Path | None:
    """Return the finished store of the competition as it is now; None when there is none, or files are not hashed."""
    settings, stamps = used_settings(competition, features), stamp_files(competition)
    return finished_store(competition, settings, stamps, HashMemory(competition).known(stamps))


def is_made_of(store_digest: str | None, competition: Competition, features: Features) -> bool:
    """Return whether the store of a digest is made of the competition's files as they are now, as far as is known.

    It is taken to be where no store of these features is there to compare with.
    """
    store = find_store(competition, features)
    return store is None or read_json(store / "meta.json")["digest"] == store_digest


def used_settings(competition: Competition, features: Features) -> dict[str, Any]:
    """Return the settings that decide the store's frames; raises SettingError for those the input cannot give."""
    if competition.feature_kind == "waveform":
        if features.sample_rate <= 0 or features.hop_length <= 0:
            raise SettingError("features.sample_rate and features.hop_length must be above 0")
        if features.store == "waveform":
            return {"kind": "waveform", "sample_rate": features.sample_rate, "peak_db": features.peak_db,
                    "hop_length": features.hop_length}  # decides no sample, but how long a crop of frames is
        settings = dataclasses.asdict(features)
        return {"kind": settings.pop("store"), **settings}
    if features.store == "waveform":
        raise SettingError(f"features.store=waveform: '{competition.name}' comes as {competition.feature_kind}, which "
                           "cannot be turned back into waveforms; set features.store=logmel")
    if competition.feature_kind == "logmel" and features.num_mels != competition.feature_dim:
        raise SettingError(f"features.num_mels={features.num_mels}: '{competition.name}' comes with "
                           f"{competition.feature_dim} mel bands; set features.num_mels={competition.feature_dim}")
    return {"kind": competition.feature_kind, "dim": competition.feature_dim}


def store_digest_of(competition: Competition, settings: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    return digest([VERSION, settings, content_digest(competition, hashes)])


def store_dir_of(competition: Competition, settings: Mapping[str, Any], store_digest: str) -> Path:
    return cache_dir(competition.name) / f"{settings['kind']}-{store_digest[:8]}"


def finished_store(competition: Competition, settings: Mapping[str, Any], stamps: Mapping[str, Stamp],
              known: Mapping[str, str]) -> Path | None:
    """Return the store where it is there with all of its frames; the rename made it whole, a disk may have torn it."""
    if len(known) < len(stamps):
        return None
    store_digest = store_digest_of(competition, settings, known)
    store = store_dir_of(competition, settings, store_digest)
    try:
        meta = read_json(store / "meta.json")
        whole = meta["digest"] == store_digest and (store / "frames.bin").stat().st_size == meta["num_bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return store if whole else None
