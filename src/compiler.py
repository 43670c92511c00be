"""torch.compile for the training step: one traced graph, on a GPU replayed as a CUDA graph."""

import os
import shutil

from torch import compile as torch_compile
from torch import nn


def compiled(model: nn.Module, device: str) -> nn.Module:
    """Return `model` compiled at its first call, or as it is, with a message, where there is no C++ compiler.

    On a GPU the graph is captured and replayed ("reduce-overhead"), since a small model's kernels take less time than
    their launches. Compiled code is kept in the user's cache by torch and found again by the next run.
    """
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    if not any(shutil.which(name) for name in compilers):
        print(f"train.compile: no C++ compiler ({', '.join(compilers)}) found; training goes on without it", flush=True)
        return model
    return torch_compile(model, mode="reduce-overhead" if device == "cuda" else "default")
