"""A container's limits count as the machine's, whichever version of control groups states them, and in what group."""

import pytest

from src.base import cgroup, machine
from src.settings import auto

V1 = "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n1:name=systemd:/docker/1\n0::/\n"
V2 = "0::/system.slice/job\n"
NO_LIMIT = {"memory/memory.limit_in_bytes": "9223372036854771712", "cpu/cpu.cfs_quota_us": "-1",
            "cpu/cpu.cfs_period_us": "100000"}


@pytest.fixture
def group(tmp_path, monkeypatch):
    """Write what /proc and /sys say of this process's groups, on a machine of 8 processors and 64 GB."""
    def write(own, files):
        for name, text in {"proc/self/cgroup": own, **{f"sys/fs/cgroup/{key}": files[key] for key in files}}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: range(8), raising=False)
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * 10**9 // 4096}
    monkeypatch.setattr(machine.os, "sysconf", sizes.__getitem__)
    return write


@pytest.mark.parametrize(("own", "files", "gb", "cpus"), [
    (V1, NO_LIMIT, 64, 8),
    (V1, NO_LIMIT | {"memory/memory.limit_in_bytes": "1048576000", "cpu/cpu.cfs_quota_us": "50000"}, 1, 1),
    (V1, NO_LIMIT | {"memory/docker/1/memory.limit_in_bytes": "3999000000", "cpu,cpuacct/docker/cpu.cfs_quota_us":
                     "250000", "cpu,cpuacct/docker/cpu.cfs_period_us": "100000"}, 3, 3),
    (V2, {"system.slice/job/memory.max": "max", "system.slice/job/cpu.max": "max 100000"}, 64, 8),
    (V2, {"memory.max": "1048576000\n", "cpu.max": "50000 100000\n"}, 1, 1),
    (V2, {"system.slice/job/memory.max": "9000000000", "system.slice/memory.high": "5000000000",
          "system.slice/job/cpu.max": "150000 100000", "system.slice/cpu.max": "400000 100000"}, 5, 2),
    (V2, {"memory.max": "900000000000", "cpu.max": "6400000 100000"}, 64, 8),
    (V1 + V2, {"unified/system.slice/job/memory.max": "2000000000"}, 2, 8),
    ("", {"memory.max": "nonsense"}, 64, 8),
], ids=["v1 none", "v1", "v1 below", "v2 none", "v2", "v2 above", "v2 larger", "both", "no groups"])
def test_the_smallest_limit_counts(group, own, files, gb, cpus):
    group(own, files)
    assert (machine.memory_gb(), machine.usable_cpus()) == (gb, cpus)


def test_without_control_groups_the_machine_counts(group):
    assert (machine.memory_gb(), machine.usable_cpus()) == (64, 8)


def test_folds_at_once_and_threads_follow(group):
    assert (auto.room_for_folds(threads=1), auto.auto_threads(4, "cpu")) == (8, 2)
    group(V1, {"memory/memory.limit_in_bytes": "1048576000"})
    assert (auto.room_for_folds(threads=1), auto.auto_threads(4, "cpu")) == (1, 8)
    group(V2, {"cpu.max": "50000 100000"})
    assert (auto.room_for_folds(threads=1), auto.auto_threads(4, "cpu")) == (1, 1)
