"""What the listings of all kinds of competition share: the utterance, folders read once, and checks of paths and names.

Used by audio_folder, course and frames, whose lists open.py puts together. Every path that a stranger's table or folder
holds is checked here to be a regular file inside the competition, before anything opens it: a link could lead anywhere,
and a pipe would never end.
"""

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from src.base.errors import InputError
from src.base.text import some
from src.competition.file_names import by_name, is_audio, is_nobody, is_other_audio

UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # control, line ends, undecodable


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance as the competition's tables state it.

    path: relative to the competition's folder. split: "train" or "test". speaker: the class, "" for test.
    group: utterances of one group never stand on both sides of a fold; "" is a group of its own. text: transcript.
    num_frames: as stated by the tables, 0 where they do not. first_frame: its place in frames.npy, else 0.
    """

    utt_id: str
    path: str
    split: str
    speaker: str = ""
    group: str = ""
    text: str = ""
    num_frames: int = 0
    first_frame: int = 0


class Folders:
    """A competition's folders, each listed once; a symlink that leaves the competition is refused.

    notices: what a person should know of it though it can be read, a line each; whoever lists adds to them.
    unknown: the paths of files that were left out because nothing tells whether they are audio.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.root = directory, os.path.realpath(directory)
        self.notices: list[str] = []
        self.unknown: list[str] = []
        self._listed: dict[str, tuple[set[str], set[str], set[str]]] = {}
        self._nobody: set[str] = set()
        self._parts: dict[str, str] = {}

    def files(self, folder: str) -> set[str]:
        """Return the names of the regular files in `folder`, relative to the competition."""
        return self._list(folder)[0]

    def folders(self, folder: str) -> set[str]:
        """Return the names of the folders in `folder` that are not hidden, nor known to be nobody's."""
        self._nobody.update(f"{folder}/{name}" for name in self._list(folder)[2])
        return self._list(folder)[1]

    def part(self, name: str) -> str:
        """Return the folder of the part `name` ("train", "test"): of that name, or where none is, in capitals.

        A part that was unpacked twice, train/train, is the inner one. Raises InputError for several spellings.
        """
        if name in self._parts:
            return self._parts[name]
        part = name
        if not os.path.lexists(os.path.join(self.directory, name)):
            spellings = [entry for entry in os.listdir(self.directory)
                         if entry.lower() == name and os.path.isdir(os.path.join(self.directory, entry))]
            if len(spellings) > 1:
                raise InputError(f"{self.directory}: {' and '.join(sorted(spellings))} could both be {name}/; rename "
                                 f"one to {name}")
            part = spellings[0] if spellings else name
        inner = self.folders(part)
        if len(inner) == 1 and min(inner).lower() == name \
                and not any(is_audio(file) or is_other_audio(file) for file in self.files(part)):
            part += f"/{min(inner)}"
        if part != name:
            self.notices.append(f"{self.directory}: {part}/ is read as {name}/")
        self._parts[name] = part
        return part

    def left_out(self) -> list[str]:
        """Return a line about folders that are nobody's and one about files of no known kind, where there are any."""
        said = []
        if self._nobody:
            said.append(f"{self.directory}: left out, for their names are known to be nobody's: "
                        f"{by_name(self._nobody)}; where they are speakers, list their files in utterances.csv")
        if self.unknown:
            said.append(f"{self.directory}: left out, for their endings are of no known kind: {len(self.unknown):,} "
                        f"files: {some(self.unknown)}; where they are recordings, give them the ending of their kind")
        return said

    def check_tables(self, names: Iterable[str]) -> None:
        """Raise InputError for a table that is there and is no regular file inside the competition."""
        for name in names:
            path = os.path.join(self.directory, name)
            if os.path.islink(path):
                self._stay_inside(path)
            if os.path.lexists(path) and not os.path.isfile(path):
                raise InputError(f"{path}: not a regular file; fetch the file again")

    def _list(self, folder: str) -> tuple[set[str], set[str], set[str]]:
        if folder not in self._listed:
            path = os.path.join(self.directory, folder)
            self._stay_inside(path)
            files, folders, nobody = set(), set(), set()
            try:
                with os.scandir(path) as entries:
                    for entry in entries:
                        if entry.is_symlink():
                            self._stay_inside(entry.path)
                        if entry.is_file():
                            files.add(entry.name)
                        elif entry.is_dir():
                            if is_nobody(entry.name):
                                nobody.add(entry.name)
                            elif not entry.name.startswith("."):
                                folders.add(entry.name)
                        elif is_audio(entry.name) or is_other_audio(entry.name):
                            raise InputError(f"{entry.path}: a broken link, pipe or device, not a file; remove it, or "
                                             "fetch the data again")
            except (FileNotFoundError, NotADirectoryError):
                pass  # its files are then reported as missing, by name
            except OSError as error:
                raise InputError(f"{path}: the folder cannot be read ({error.strerror}); make it readable, or unpack "
                                 "the data again") from error
            self._listed[folder] = files, folders, nobody
        return self._listed[folder]

    def _stay_inside(self, path: str) -> None:
        real = os.path.realpath(path)
        if real != self.root and not real.startswith(self.root + os.sep):
            raise InputError(f"{path}: a symlink that leaves the competition, to {real}; copy the file in, or link the "
                             "competition's whole folder instead")


def check_paths(folders: Folders, utterances: list[Utterance]) -> None:
    """Raise InputError for a path that could leave the competition's folder, and for files that are not there."""
    directory, missing = folders.directory, []
    for path in (utterance.path for utterance in utterances):
        folder, _, name = path.rpartition("/")
        if UNSAFE.search(path) or any(part in ("", ".", "..") for part in path.split("/")):
            raise InputError(f"{directory}: {path!r}: not a plain path inside the competition; it must be relative, "
                             "without '..', empty parts or control characters")
        if name not in folders.files(folder):
            missing.append(path)
    if missing:
        raise InputError(f"{directory}: {len(missing)} of {len(utterances)} files are missing: {some(missing)}; "
                         "fetch or unpack the data again")


def check_names(directory: Path, what: str, names: Iterable[str]) -> None:
    """Raise InputError for a name that is empty, cannot stand on one line, or equals another as Unicode text."""
    seen: set[str] = set()
    for name in names:
        if not name or UNSAFE.search(name) or name != name.strip():
            raise InputError(f"{directory}: {what} {name!r}: empty, or with control characters or spaces around it; "
                             "rename it")
        normal = name if name.isascii() else unicodedata.normalize("NFC", name)
        if normal in seen:
            raise InputError(f"{directory}: {what} {name!r} stands there twice (names are compared after Unicode NFC "
                             "normalisation); rename or remove one")
        seen.add(normal)
