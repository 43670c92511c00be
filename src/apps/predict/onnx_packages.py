"""The optional packages of exported models."""

import importlib
from types import ModuleType

from src.base.errors import RunError


def require(name: str) -> ModuleType:
    """Return an optional package; raises RunError with the command that installs it where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RunError(f"{name} is not installed; exported models need it: .venv/bin/python -m pip install onnx "
                       "onnxscript onnxruntime soxr") from error
