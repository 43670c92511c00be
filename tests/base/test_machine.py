"""Freed memory is kept for the next step: no page is faulted in twice."""

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from src.base import machine as allocator

CODE = """
import resource
import sys
import numpy as np
from src.base.machine import keep_large_blocks

if sys.argv[1] == "keep":
    keep_large_blocks()
for step in range(6):
    if step == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**23)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_large_blocks_are_used_again():
    faults = {how: int(subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True,
                                      cwd=".").stdout) for how in ("default", "keep")}
    assert faults["keep"] < faults["default"] / 10, faults


@pytest.mark.parametrize(("accepted", "calls"), [
    ((allocator.LARGEST,), [(-3, 2**30), (-1, 2**31 - 1)]), ((allocator.LARGEST_OLD,), [(-3, 2**30), (-3, 2**25),
                                                                                        (-1, 2**31 - 1)]),
    ((), [(-3, 2**30), (-3, 2**25)])], ids=("new glibc", "old glibc", "none"))
def test_the_trim_threshold_is_never_set_alone(monkeypatch, accepted, calls):
    made = []

    def mallopt(option, value):
        made.append((option, value))
        return int(value in accepted)

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    allocator.keep_large_blocks()
    assert made == calls
