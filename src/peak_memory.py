"""The largest memory that a process has held, of the GPU where it uses one."""

import resource
import sys
from pathlib import Path


def reset_peak(device: str) -> None:
    """Begin the measurement that `peak_mb` ends."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
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
