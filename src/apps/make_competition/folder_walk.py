"""The first level of a corpus' folders, from the top, that can be the speakers'; each branch is walked by itself.

Goes in: the files as path parts. Comes out: each one's folder that is the speaker's. Folders are passed over where all
at a level are known to be no speakers' (corpus_words) and other folders lie within them, and where only one holds
everything.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from src.apps.make_competition.corpus_words import (
    PARTS,
    SESSION_OF,
    WRAPPERS,
    is_common,
    is_container,
    is_of_persons,
    is_session,
    is_word,
)
from src.base.text import some

Parts = tuple[str, ...]

MOST = 0.9  # of the files must agree on what is taken for evidence


class NoSpeakers(Exception):
    """The files lie in no folder that could be a speaker's; the message says how they lie."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one file belongs: its speaker, its session ("" for none known) and its name in that session."""

    speaker: str
    session: str
    name: str


class FolderWalk:
    """Where the speakers' folders stand.

    index: {file: which of its folders is the speaker's}. lone: the names of folders that hold everything. passed: the
    names of folders that were passed over, with their level. by_session: these are sessions. sessions_of: {folder:
    speaker} where folders are sessions whose names begin with their speakers'.
    """

    def __init__(self, files: list[Parts]) -> None:
        """Raise NoSpeakers where there are none."""
        self.index: dict[Parts, int] = {}
        self.lone: list[str] = []
        self.passed: dict[str, int] = {}
        self.by_session = False
        self._visit(files, 0)
        self.sessions_of = _sessions_of({parts[i] for parts, i in self.index.items()})
        self._groups: dict[str, set[Parts]] = {}  # of each folder's name
        for parts, i in self.index.items():
            self._groups.setdefault(parts[i], set()).add(self._group(parts))

    def _visit(self, files: list[Parts], depth: int) -> None:
        """Find the speakers of files that share their first `depth` folders; raises NoSpeakers where there are none."""
        inside = [parts for parts in files if len(parts) > depth + 1]
        names = {parts[depth] for parts in inside}
        if not names:
            raise NoSpeakers(f"its {len(files):,} audio files lie in no speaker's folder; one folder per speaker is "
                             "needed")
        deeper = [parts for parts in inside if len(parts) > depth + 2]
        if len(names) == 1 and (deeper or min(names).lower() in WRAPPERS) and min(names).lower() not in PARTS:
            self.lone += () if self.passed else names
            self._visit(inside, depth + 1)
        elif self._are_passed(names, inside, deeper, depth):
            self._pass_over(names, deeper, depth)
        elif all(is_word(name) and not is_container(name) and len(name) > 2 for name in names):
            raise NoSpeakers(f"its folders are named {some(sorted(names))}, which are no speakers; where they are, "
                             f"give --speaker-level {depth + 1}")
        else:
            again = {name for name in names if _holds_again(name, names, deeper, depth)}
            self.index |= {parts: depth + 1 if parts[depth] in again and len(parts) > depth + 2 else depth
                           for parts in inside}

    def _are_passed(self, names: set[str], inside: list[Parts], deeper: list[Parts], depth: int) -> bool:
        """Return whether folders are known to be no speakers', by their names or those within; notes sessions."""
        if len(deeper) < MOST * len(inside):
            return False
        below = {parts[depth + 1] for parts in deeper}
        if sum(is_word(parts[depth]) for parts in inside) >= MOST * len(inside):
            return True
        if all(map(is_of_persons, below)) and _hold_several_groups(deeper, depth):
            return True
        if len(names) > 1 and all(map(is_session, names)) and not any(is_word(n) or is_session(n) for n in below):
            self.by_session = 2 * num_shared((p[: depth + 1], p[depth + 1]) for p in deeper) > len(below)
        return self.by_session

    def _pass_over(self, names: set[str], deeper: list[Parts], depth: int) -> None:
        """Look for speakers in each of the folders; one that holds none is left out as long as another holds some."""
        self.passed |= dict.fromkeys(names, depth + 1)
        empty = []
        for name in sorted(names):
            try:
                self._visit([parts for parts in deeper if parts[depth] == name], depth + 1)
            except NoSpeakers as error:
                empty.append(error)
        if len(empty) == len(names):
            raise empty[0]

    def place(self, parts: Parts) -> Place:
        """Return where a file belongs; equal names in several groups of speakers, as male/1 and female/1, are two."""
        i = self.index[parts]
        speaker, session = parts[i], "/".join(parts[i + 1 : -1])
        if len(self._groups[speaker]) > 1:
            speaker = "_".join([*self._group(parts), speaker])
        if self.by_session:
            session = "/".join([*parts[:i], *parts[i + 1 : -1]])
        if parts[i] in self.sessions_of:
            speaker, session = self.sessions_of[parts[i]], "/".join(parts[i:-1])
        return Place(speaker, session, parts[-1])

    def _group(self, parts: Parts) -> Parts:
        """Return the names of the groups of speakers that a file lies in, of the folders that were passed over."""
        return tuple(name for name in parts[: self.index[parts]] if name in self.passed and not is_common(name))

    def hint(self) -> str:
        """Return what else could be the speakers, "" for nothing: folders passed over, or more folders further down."""
        if self.sessions_of:
            return (f"their folders' names ({some(sorted(self.sessions_of))}) go on with a session's; if each is a "
                    f"speaker of its own, give --speaker-level {min(self.index.values()) + 1}")
        if self.passed:
            several = any(len(groups) > 1 for groups in self._groups.values())
            equal = ", and equal names in them for different speakers" if several else ""
            levels = " or ".join(str(level) for level in sorted(set(self.passed.values())))
            return (f"{some(sorted(self.passed))} are taken for no speakers{equal}; if they are, give --speaker-level "
                    f"{levels}")
        speakers = {parts[i] for parts, i in self.index.items()}
        for depth in range(1, max(len(parts) - i for parts, i in self.index.items()) - 1):
            deeper = [(parts[: i + depth], parts[i + depth]) for parts, i in self.index.items()
                      if len(parts) > i + depth + 1]
            below = {name for _, name in deeper}
            if len(below) > len(speakers) and not num_shared(deeper) and not any(map(is_session, below)):
                return (f"{len(below):,} folders lie further down: {some(sorted(below))}; if these are the speakers, "
                        f"give --speaker-level {min(self.index.values()) + depth + 1}")
        return ""


def num_shared(pairs: Iterable[tuple[Parts, str]]) -> int:
    """Return how many of the folders' names stand below several folders other than parts of a corpus.

    pairs: (the folders above, the folder's name).
    """
    above: dict[str, set[Parts]] = {}
    for folder, name in pairs:
        above.setdefault(name, set()).add(tuple(part for part in folder if not is_word(part)))
    return sum(len(folders) > 1 for folders in above.values())


def _hold_several_groups(deeper: list[Parts], depth: int) -> bool:
    """Return whether the folders below a level hold folders again, and one has several, as no speaker has genders."""
    groups: dict[str, set[str]] = {}
    for parts in deeper:
        groups.setdefault(parts[depth], set()).add(parts[depth + 1])
    num_deepest = sum(len(parts) > depth + 3 for parts in deeper)
    return num_deepest >= MOST * len(deeper) and any(len(names) > 1 for names in groups.values())


def _holds_again(name: str, names: set[str], deeper: list[Parts], depth: int) -> bool:
    """Return whether the folder `name` holds folders called as those beside it: the speakers once more."""
    below = {parts[depth + 1] for parts in deeper if parts[depth] == name}
    return name not in below and 2 * len(below & names) > len(below) > 1


def _sessions_of(names: set[str]) -> dict[str, str]:
    """Return {folder: speaker} where folders are called by speaker and session, as "ann-20080425-x", else nothing.

    Only where nearly all are, and speakers have several; who is anonymous may be another each time.
    """
    matches = {name: match for name in names if (match := SESSION_OF.fullmatch(name))}
    speakers = {name: name if match[1].lower().startswith("anonymous") else match[1] for name, match in matches.items()}
    if len(matches) < MOST * len(names) or len(set(speakers.values())) == len(speakers):
        return {}
    return speakers
