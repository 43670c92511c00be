"""Files that are whole or absent: atomic writes, digests of settings, locks between processes."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from src.base.errors import RunError
from src.base.file_system import flock, replace, sync


@contextlib.contextmanager
def atomic_open(path: Path, mode: str = "w", **kwargs: Any) -> Iterator[IO]:
    """Open a temporary file beside `path` and rename it to `path` when the block ends without an error.

    The bytes reach the disk before the rename, so a kill or a power cut leaves the old file or the new one.
    Raises RunError when the disk is full; the temporary file is removed on every error.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if "b" not in mode:
        kwargs.setdefault("encoding", "utf-8")
        kwargs.setdefault("newline", "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, mode, **kwargs) as file:
            yield file
            file.flush()
            sync(file.fileno(), path)
        replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            raise RunError(f"{path}: the disk is full; make room and run the same command again") from error
        raise


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error is one of a full disk or was raised in answer to it, as torch.save does."""
    while error is not None and getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
        error = error.__cause__ or error.__context__
    return error is not None


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` atomically as indented JSON."""
    with atomic_open(path) as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file that this project wrote."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def digest(content: Any) -> str:
    """Return the SHA-256 (64 hex digits) of `content` as canonical JSON: equal content, equal digest."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@contextlib.contextmanager
def lock(path: Path, wait_message: str = "", timeout_s: float = math.inf) -> Iterator[None]:
    """Hold an exclusive lock file; where another process has it, print `wait_message` and wait for it.

    The kernel releases the lock when its holder dies, so a kill never leaves it behind. Where the file system has no
    locks, nothing is held, and one line says so. Raises TimeoutError where it is held for `timeout_s`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "rb") as file:
        try:
            flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
        except BlockingIOError:
            if wait_message:
                print(wait_message, flush=True)
            if timeout_s == math.inf:
                flock(file, fcntl.LOCK_EX, path)
            else:
                _wait_for_lock(file, timeout_s)
        yield


def _wait_for_lock(file: IO, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, f"another process has held its lock for {timeout_s:g} s") from error
            time.sleep(0.02)


def is_held(lock_path: Path) -> bool:
    """Return whether a live process holds a lock file of `src.base.files.lock`; False where nothing can be locked."""
    try:
        with open(lock_path, "rb") as file:
            flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB, Path(lock_path))
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def num_bytes(directory: Path) -> int:
    """Return the size of all files in a folder."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
