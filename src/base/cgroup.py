"""What a container or a batch system leaves a process of the machine: the limits of its Linux control groups.

Both versions are read: cgroup v2, one tree for all, and v1, a tree for memory and one for processors. A limit of any
group above the process's own counts too. Within a container the path in /proc/self/cgroup may be the one that the host
sees; the group's files then lie at the top.
"""

import math
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")  # where proc and sys are mounted


def memory_limit(root: Path | None = None) -> int | None:
    """Return how many bytes of memory this process's groups allow; None where they set no limit."""
    names = {"memory": ("memory.limit_in_bytes",), "": ("memory.max", "memory.high")}
    found = [_number(folder / name) for controller, folder in _groups(root or ROOT, "memory")
             for name in names[controller]]
    return min((int(limit) for limit in found if limit is not None), default=None)


def cpu_limit(root: Path | None = None) -> float | None:
    """Return how many processors' time this process's groups allow, such as 0.5; None where they set no limit."""
    shares = []
    for controller, folder in _groups(root or ROOT, "cpu"):
        if controller:
            quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        else:
            quota, period = _number(folder / "cpu.max"), _number(folder / "cpu.max", place=1)
        if quota and period and quota > 0:  # -1 is no limit
            shares.append(quota / period)
    return min(shares, default=None)


def _groups(root: Path, controller: str) -> Iterator[tuple[str, Path]]:
    """Yield (controller, folder) of each group that this process is in, "" for the controller in cgroup v2."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if controller not in names.split(",") and names:
            continue
        for top in dict.fromkeys((controller, names) if names else ("", "unified")):
            for above in (Path(path), *Path(path).parents):
                yield controller if names else "", root / "sys/fs/cgroup" / top / above.relative_to("/")


def _number(path: Path, place: int = 0) -> float | None:
    """Return one of the numbers in a group's file; None for "max" and where there is no such file."""
    try:
        number = float(path.read_text(encoding="ascii").split()[place])
    except (OSError, ValueError, IndexError):
        return None
    return number if math.isfinite(number) else None
