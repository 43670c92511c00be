"""What a competition's files hold: one SHA-256 a file, remembered so that unchanged files are never read twice.

Goes in: a competition. Comes out: the digest of its content, which names stores and runs. A file's hash is remembered
by its path, size and modification time in data/cache/<competition>/. Touching a file costs one reading of it and
changes no digest. Where times are whole seconds, as on FAT, a file that has just been written is not remembered: it
could change once more and keep its time.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from src.base.errors import InputError
from src.base.files import atomic_open, digest
from src.base.workspace import cache_dir
from src.competition.open import Competition

Stamp = tuple[int, int]  # size in bytes, modification time in ns
SHA256 = re.compile(r"[0-9a-f]{64}")
SECOND_NS = 10**9
COARSEST_NS = 2 * SECOND_NS  # between two times of FAT


def stamp(status: os.stat_result) -> Stamp:
    """Return what tells an unchanged file from a changed one without reading it."""
    return status.st_size, status.st_mtime_ns


def stamp_files(competition: Competition) -> dict[str, Stamp]:
    """Return {path: stamp} of every file that holds an utterance; raises InputError for one that cannot be reached."""
    root, stamps = str(competition.directory) + os.sep, {}
    for path in dict.fromkeys(utterance.path for utterance in competition.utterances):
        try:
            stamps[path] = stamp(os.stat(root + path))
        except OSError as error:
            raise InputError(f"{root}{path}: {error.strerror}; fetch or unpack the data again") from error
    return stamps


class HashMemory:
    """The hashes remembered for one competition's folder; a torn or foreign memory counts as empty."""

    def __init__(self, competition: Competition) -> None:
        folder = digest(os.path.realpath(competition.directory))[:8]  # two folders may share a name
        self.path: Path = cache_dir(competition.name) / f"hashes-{folder}.json"
        self._remembered: dict[str, list] = {}
        self._since_ns = time.time_ns()
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            content = None
        if isinstance(content, dict):
            self._remembered = content

    def known(self, stamps: Mapping[str, Stamp]) -> dict[str, str]:
        """Return {path: hash} of the files whose stamp is the remembered one."""
        known = {}
        for path, (size, time_ns) in stamps.items():
            match self._remembered.get(path):
                case [s, t, str(sha256)] if s == size and t == time_ns and SHA256.fullmatch(sha256):
                    known[path] = sha256
        return known

    def save(self, stamps: Mapping[str, Stamp], hashes: Mapping[str, str]) -> None:
        """Remember `hashes` of files with these stamps, and nothing else, atomically."""
        self._remembered = {path: [*stamps[path], sha256] for path, sha256 in hashes.items()
                            if not self._may_hide_a_change(stamps[path][1])}
        with atomic_open(self.path) as file:
            json.dump(self._remembered, file, separators=(",\n", ":"))

    def _may_hide_a_change(self, time_ns: int) -> bool:
        return time_ns % SECOND_NS == 0 and time_ns > self._since_ns - COARSEST_NS


def content_digest(competition: Competition, hashes: Mapping[str, str]) -> str:
    """Return the digest of what a store is made of: speakers, and each utterance's id, class, group, text and bytes."""
    whole = hashlib.sha256(json.dumps([competition.kind, competition.feature_dim, competition.speakers]).encode())
    for u in competition.utterances:
        whole.update(json.dumps([u.utt_id, u.split, u.speaker, u.group, u.text, u.num_frames, u.first_frame,
                                 hashes[u.path]]).encode())
    return whole.hexdigest()


def hash_files(competition: Competition, paths: list[str]) -> dict[str, str]:
    """Return {path: hash} of files, read now; raises InputError for one that cannot be read."""
    hashes = {}
    for path in paths:
        try:
            with open(competition.directory / path, "rb") as file:
                hashes[path] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"{competition.directory / path}: {error.strerror}; fetch the data again") from error
    return hashes
