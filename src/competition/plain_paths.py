"""Paths in tables as others wrote them, made the plain ones that the competition's folder has.

Goes in: the paths of a whole table. Comes out: the same where they are plain; otherwise, where that is safe, what was
meant: backslashes of Windows, "./", absolute paths into this folder, and paths that all begin with the folder where the
table was written ("/content/mine/train/…", "mine/train/…"). ".." is never followed. Nothing is opened; whether the
files are there is for check_paths to say.
"""

from src.competition.utterances import UNSAFE, Folders

ODD = ("\\", "//", "/./", "\n/", "\n./")  # what no plain path holds, in a list of a path per line
MOST_CHARACTERS = 2000  # of a path; what is longer could not be opened


def plain_paths(paths: list[str], folders: Folders) -> list[str]:
    """Return the paths relative to the competition; what cannot be told stays as it was."""
    lines = "\n" + "\n".join(paths)  # searched at once: there may be many
    if any(mark in lines for mark in ODD):
        paths = [_plain(path, folders) for path in paths]
    if not paths or _is_there(paths[0], folders):
        return paths
    parts = paths[0].split("/")
    for i in range(1, 0 if ".." in parts else len(parts)):
        if _is_there("/".join(parts[i:]), folders):
            head = "/".join(parts[:i]) + "/"
            moved = [path.removeprefix(head) for path in paths]
            if all(path.startswith(head) and _is_there(rest, folders) for path, rest in zip(paths, moved)):
                folders.notices.append(f"{folders.directory}: paths below {head} are read as paths in this folder")
                return moved
            break
    return paths


def _plain(path: str, folders: Folders) -> str:
    """Return one path with slashes only, without "." and empty parts, and relative where it lies inside."""
    if _is_there(path, folders):  # a backslash may stand in a name
        return path
    slashed = path.replace("\\", "/")
    for root in (str(folders.directory), folders.root):
        slashed = slashed.removeprefix(root + "/")
    parts = [part for part in slashed.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        return path
    return ("/" if slashed.startswith("/") else "") + "/".join(parts)


def _is_there(path: str, folders: Folders) -> bool:
    """Return whether a plain path names a file of the competition."""
    folder, _, name = path.rpartition("/")
    if len(path) > MOST_CHARACTERS or UNSAFE.search(path) or not {"", ".", ".."}.isdisjoint(path.split("/")):
        return False
    return name in folders.files(folder)
