"""What this machine and this process can do: CPU cores, memory, bfloat16, GPU; peak memory and the C library's heap."""

import ctypes
import math
import os
import resource
import sys
from pathlib import Path

from src.base.cgroup import cpu_limit, memory_limit


def multiplies_bfloat16() -> bool:
    """Return whether Linux says that this processor multiplies bfloat16 itself; others are slower with it."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def usable_cpus() -> int:
    """Return the number of processors that this process may use: a quota of one and a half counts as two."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(number, math.ceil(cpu_limit() or number))


def memory_gb() -> int:
    """Return the memory in whole gigabytes that this process may use: the machine's, or a container's rounded down."""
    number = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)
    limit = memory_limit()
    return number if limit is None else min(number, int(limit / 1e9))


def is_alive(process_id: int) -> bool:
    """Return whether a process of this number runs on this machine."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def has_gpu() -> bool:
    """Return whether the NVIDIA driver sees a device, asking the driver itself: importing torch takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def reset_peak(device: str) -> None:
    """Begin the measurement that `peak_mb` ends."""
    if device == "cuda":
        sys.modules["torch"].cuda.reset_peak_memory_stats()  # whoever uses the GPU has imported torch
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb(process_id: str = "self") -> float:
    """Return the largest memory that a process has had, in MB of a million bytes; 0 for one that is gone.

    Of this process it is the GPU's memory where it has used a GPU.
    """
    torch = sys.modules.get("torch")
    if process_id == "self" and torch and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    try:  # a child's ru_maxrss begins with its parent's, VmHWM does not
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:")), 0.0)
    except OSError:
        if process_id != "self":
            return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST, LARGEST_OLD = 2**30, 2**25  # bytes; older versions of glibc refuse more than the second


def keep_large_blocks() -> None:
    """Keep freed blocks of up to a gigabyte (older versions: 32 MB) for the next step, where the C library is glibc.

    By default it gives blocks over 32 MB back to the system at once, and each step faults their pages in anew: 28,000
    page faults a step of `quick`, which cost a tenth to a quarter of its time (two cores: 253 and 264 crops/s with
    them, 317 and 294 without).
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    if mallopt(M_MMAP_THRESHOLD, LARGEST) or mallopt(M_MMAP_THRESHOLD, LARGEST_OLD):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # alone it would fix the other one at 128 kB
