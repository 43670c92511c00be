"""What decides the figures of a bench besides the code: device, processor, GPU, load and number types."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from src.base.errors import SettingError
from src.base.machine import has_gpu, multiplies_bfloat16, usable_cpus

PRECISIONS = ("float32", "bfloat16")  # that training and inference are measured in
BUSY = 0.25  # a processor's load over the last minute beyond which the machine is not idle


def device_of(asked: str) -> str:
    """Return "cpu" or "cuda"; raises SettingError where there is no GPU to take."""
    if asked == "cuda" and not has_gpu():
        raise SettingError("--device cuda: the NVIDIA driver sees no GPU here; use --device cpu")
    return ("cuda" if has_gpu() else "cpu") if asked == "auto" else asked


def precisions_of(asked: Sequence[str], device: str) -> Sequence[str]:
    """Return the number types to measure."""
    if asked or device == "cuda" or multiplies_bfloat16():
        return asked or PRECISIONS
    print("bench: this processor does not multiply bfloat16, which would take minutes and is left out; --precisions "
          "float32 bfloat16 measures it all the same", flush=True)
    return PRECISIONS[:1]


def describe(device: str, gpu: str | None) -> dict[str, Any]:
    """Return what decides the figures besides the code, for JSON. gpu: its name, None where none is used."""
    return {"device": device, "gpu": gpu, "processor": _processor(), "processors": usable_cpus(),
            "load": os.getloadavg()[0], "torch": version("torch"), "python": platform.python_version()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def shown(machine: dict[str, Any]) -> str:
    """Return a machine in a few words."""
    processors = f"{machine['processors']} processors of {machine['processor']}"
    return f"{machine['gpu']}, {processors}" if machine["gpu"] else f"{processors}, no GPU used"
