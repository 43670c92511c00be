"""torch.compile for the training step: fewer, larger kernels."""

import os
import shutil

from torch import compile as torch_compile
from torch import nn


def compiled(model: nn.Module) -> nn.Module:
    """Return `model` compiled for each shape it meets, or as it is, with a message, where there is no C++ compiler.

    Compiled code is kept in the user's cache by torch and found again by the next run.
    """
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    found = next((name for name in compilers if shutil.which(name)), None)
    if not found:
        print(f"train.compile: no C++ compiler ({', '.join(compilers)}) found; training goes on without it", flush=True)
        return model
    os.environ["CXX"] = found  # torch itself looks for g++ alone
    return torch_compile(model, dynamic=False)
