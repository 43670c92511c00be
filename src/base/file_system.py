"""What a file system may be unable to do, such as locks on Lustre: it is gone without, and said once.

Each function does what the system call of its name does. Where the file system has no such thing, it does without,
prints one line that names the folder and what to mind, once per process and file system, and says so to its caller.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import sys
from pathlib import Path
from typing import IO

from src.base import distributed

UNABLE = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}
OVER_ANOTHER = {*UNABLE, errno.EXDEV, errno.EBUSY, errno.EEXIST}  # a file that is a mount of its own is "busy"
_said: set[tuple[str, int]] = set()  # what, and the device it was said of


def flock(file: IO | int, operation: int, path: Path) -> bool:
    """Lock an open file; return False where the file system has no locks. Raises BlockingIOError where it is held."""
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        _go_without(error, UNABLE, path.parent, "lock files", "do not start two runs at once")
        return False
    return True


def sync(descriptor: int, path: Path) -> bool:
    """Bring an open file to the disk; return False where the file system cannot be asked to."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        _go_without(error, UNABLE, path.parent, "bring files to the disk at once",
                    "after a power cut the last ones may be missing")
        return False
    return True


def sync_folder(folder: Path) -> bool:
    """Bring the names in a folder to the disk; return False where the file system cannot be asked to."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return sync(descriptor, folder / "names")
    finally:
        os.close(descriptor)


def replace(source: Path, target: Path) -> bool:
    """Rename a file over another; return False where it had to be copied, as into a file that a container mounts."""
    try:
        os.replace(source, target)
    except OSError as error:
        _go_without(error, OVER_ANOTHER if target.is_file() else set(), target.parent,
                    f"rename a file to {target.name}", "it is copied, and a kill meanwhile would leave it torn")
        shutil.copyfile(source, target)
        os.unlink(source)
        return False
    return True


def open_to_append(path: Path) -> int:
    """Open a file, made where missing, for reading and writing, and return its descriptor.

    Each write goes to the file's end; where the file system does not append by itself, the place is only set to it.
    """
    flags = os.O_RDWR | os.O_CREAT
    try:
        return os.open(path, flags | os.O_APPEND, 0o644)
    except OSError as error:
        _go_without(error, UNABLE, path.parent, "append to files", "do not start two runs at once")
    descriptor = os.open(path, flags, 0o644)
    os.lseek(descriptor, 0, os.SEEK_END)
    return descriptor


def _go_without(error: OSError, expected: set[int], folder: Path, what: str, remedy: str) -> None:
    """Say what cannot be done in a folder, unless that was said; raises an error that says something else."""
    if error.errno not in expected:
        raise error
    said = (what, os.stat(folder).st_dev)
    if said not in _said and distributed.is_main():
        _said.add(said)
        with contextlib.suppress(OSError):
            print(f"{folder}: cannot {what} here ({error.strerror}); {remedy}", file=sys.stderr, flush=True)
