"""Freed memory is kept for the next step: no page is faulted in twice."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource
import sys
import numpy as np
from src.allocator import keep_large_blocks

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
