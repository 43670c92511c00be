"""Which folder of a corpus' files is the speaker's, told by evidence or by the person who asks.

Goes in: the files as path parts. Comes out: each one's speaker, session and name, and in words what was found. Evidence
is, in this order: layouts of known corpora; file names that begin with the name of one of their folders; how many
folders there are at a level and what they are called (folder_walk). A level is counted from the corpus' folder: 1 is
the folders in it.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass, replace

from src.apps.make_competition.corpus_words import FILE_NAMES, FLAT, WRAPPERS, is_part, is_session, is_word
from src.apps.make_competition.folder_walk import MOST, FolderWalk, NoSpeakers, Parts, Place, num_shared
from src.base.text import some

VOXCELEB_SPEAKER = re.compile(r"id\d{5,}")
HASH = re.compile(r"[0-9a-f-]{16,}")  # a file's name that says nothing
ORDINALS = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


@dataclass(frozen=True)
class Found:
    """What the folders say: a layout in words, where the speakers stand, a hint for the reader, and the files' places.

    Files that belong to nobody are not among the places.
    """

    layout: str
    where: str
    hint: str
    places: dict[Parts, Place]


def find_speakers(files: list[Parts], level: int | None = None) -> Found:
    """Return the speakers of the files. level: where the speakers' folders stand, where a person says so.

    Raises NoSpeakers where no folder can be a speaker's.
    """
    if level is not None:
        return _at_level(files, level)
    if found := _by_file_names(files, FILE_NAMES) or _by_known_folders(files):
        return found
    if sum(_is_shard(parts) for parts in files) >= MOST * len(files):
        raise NoSpeakers("its folders are named as the files' names begin, which are hashes and tell no speakers")
    begun = _begun_by_folder(files)
    try:
        walk = FolderWalk(files)
    except NoSpeakers:
        if begun:
            return _found(begun, ", as the files' names begin")
        if found := _by_file_names(files, FLAT):
            return found
        raise
    if begun and sum(begun.get(parts) == i for parts, i in walk.index.items()) < MOST * len(files):
        others = sorted({parts[i] for parts, i in walk.index.items()})
        return _found(begun, ", as the files' names begin",
                      f"if {some(others)} are the speakers, give --speaker-level {min(walk.index.values()) + 1}")
    return _found(walk.index, "".join(f" in {name}/" for name in walk.lone[::-1]), walk.hint(), walk)


def _at_level(files: list[Parts], level: int) -> Found:
    index = {parts: level - 1 for parts in files if len(parts) > level}
    if not index:
        deepest = max(map(len, files)) - 1
        raise NoSpeakers(f"no audio lies below a folder at level {level}; the deepest folders stand at level {deepest}")
    return _found(index, ", as --speaker-level says")


def _found(index: dict[Parts, int], why: str = "", hint: str = "", walk: FolderWalk | None = None) -> Found:
    """Return the places of files whose speaker's folder stands at parts[index]; `why` ends the layout's name.

    A session that all files have, called wav or so, is none.
    """
    places = {parts: Place(parts[i], "/".join(parts[i + 1 : -1]), parts[-1]) for parts, i in index.items()}
    if walk:
        places = _told_apart({parts: walk.place(parts) for parts in index}, index)
    sessions = {place.session for place in places.values()}
    if len(sessions) == 1 and all(part.lower() in WRAPPERS for part in min(sessions).split("/")):
        places = {parts: replace(place, session="") for parts, place in places.items()}
        sessions = {""}
    levels = [ORDINALS[i + 1] if i + 1 < len(ORDINALS) else f"{i + 1}th" for i in sorted(set(index.values()))]
    layout = ("speaker/session/file" if sessions != {""} else "speaker/file") + why
    return Found(layout, f"at the {' or '.join(levels)} level", hint, places)


def _told_apart(places: dict[Parts, Place], index: dict[Parts, int]) -> dict[Parts, Place]:
    """Return the places with the part in the names of files that both train/ and test/ have of a speaker."""
    counts = Counter(places.values())
    return {parts: place if counts[place] == 1 else replace(place, name="-".join(
        [*(name for name in parts[: index[parts]] if is_part(name)), place.name])) for parts, place in places.items()}


def _by_file_names(files: list[Parts], patterns: dict[str, re.Pattern]) -> Found | None:
    """Return the speakers of a corpus that is known to name them in its files' names alone; None for any other."""
    for corpus, pattern in patterns.items():
        matches = {parts: match for parts in files if (match := pattern.fullmatch(_stem(parts)))}
        speakers = {parts: "".join(match.groups()) for parts, match in matches.items()}
        if len(matches) < MOST * len(files) or len(set(speakers.values())) < 2:
            continue
        counts = Counter((speaker, parts[-1]) for parts, speaker in speakers.items())
        places = {parts: Place(speaker, "", parts[-1] if counts[speaker, parts[-1]] == 1 else "-".join(parts[-2:]))
                  for parts, speaker in speakers.items()}
        return Found(f"{corpus}, the speaker in the file's name", "in the files' names", "", places)
    return None


def _by_known_folders(files: list[Parts]) -> Found | None:
    """Return the speakers of a corpus that is laid out as VoxCeleb, LibriSpeech or CN-Celeb; None for any other."""
    for layout, depth, fits in (("VoxCeleb, speaker/video/file", 3, _is_voxceleb),
                                ("LibriSpeech, speaker/chapter/file", 3, _is_librispeech),
                                ("CN-Celeb, speaker/file", 2, _is_cnceleb)):
        index = {parts: len(parts) - depth for parts in files if fits(parts)}
        if 2 * len(index) > len(files):
            return replace(_found(index), layout=layout)
    return None


def _is_voxceleb(parts: Parts) -> bool:
    return len(parts) >= 3 and VOXCELEB_SPEAKER.fullmatch(parts[-3]) is not None


def _is_librispeech(parts: Parts) -> bool:
    return len(parts) >= 3 and parts[-2].isdigit() and parts[-1].startswith(f"{parts[-3]}-{parts[-2]}-")


def _is_cnceleb(parts: Parts) -> bool:
    return len(parts) >= 2 and VOXCELEB_SPEAKER.fullmatch(parts[-2]) is not None


def _stem(parts: Parts) -> str:
    return os.path.splitext(parts[-1])[0]


def _is_shard(parts: Parts) -> bool:
    """Return whether a file's folder is named by the first letters of a hash that is the file's name."""
    return len(parts) > 1 and HASH.fullmatch(_stem(parts)) is not None and parts[-1].startswith(parts[-2])


def _begun_by_folder(files: list[Parts]) -> dict[Parts, int]:
    """Return {file: index} of the folder whose name begins the files' names, nothing where there is none.

    Of several the uppermost counts whose name ends there, in "ann/ann1/ann1_3.wav" ann. Names of a known kind, of
    sessions, and such as stand below many folders are no evidence.
    """
    candidates = []
    for depth in range(1, max(map(len, files))):
        begun = [parts for parts in files if len(parts) > depth and parts[-1].startswith(parts[-1 - depth])]
        names = {parts[-1 - depth] for parts in begun}
        if len(begun) < MOST * len(files) or len(names) < 2:
            continue
        if sum(is_word(name) or is_session(name) for name in names) > len(names) / 2:
            continue
        if 2 * num_shared((parts[: -1 - depth], parts[-1 - depth]) for parts in begun) > len(names):
            continue
        ends = sum(_ends_there(parts[-1], parts[-1 - depth]) for parts in begun)
        candidates.append((ends >= MOST * len(begun), depth, names))
    if not candidates:
        return {}
    _, depth, names = max(candidates, key=lambda candidate: candidate[:2])
    return {parts: len(parts) - 1 - depth for parts in files if len(parts) > depth and parts[-1 - depth] in names}


def _ends_there(name: str, begin: str) -> bool:
    """Return whether `begin` is a whole word of the name that it begins: ann of ann1, but not 1 of 19."""
    following, last = name[len(begin) :][:1], begin[-1:]
    return not following.isalnum() or following.isdigit() != last.isdigit()
