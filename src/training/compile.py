"""Compiled steps, and steps replayed from a CUDA graph."""

import os
import shutil
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Generator, Tensor, nn
from torch import compile as torch_compile

from src.base.errors import RunError
from src.store.batch import Batch


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


PLAIN_STEPS = 3  # before the capture: libraries choose their kernels, buffers and constants are made


class CapturedGradients:
    """Call it with a batch to get losses_of(batch), the backward pass of its "loss" done.

    losses_of: figures of a batch as scalar tensors, by work on the GPU alone: no value may come back to the host, and
    shapes and settings must be those of the first call. What changes from step to step is the batch, the seeds and
    the content of tensors. generator: what losses_of draws from beside the GPU's default generator.
    """

    def __init__(self, model: nn.Module, losses_of: Callable[[Batch], dict[str, Tensor]], generator: Generator) -> None:
        self.model, self.losses_of, self.generator = model, losses_of, generator
        self.num_plain = 0
        self.stream = torch.cuda.Stream()  # the capture's and that of the steps before it
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return the figures of `batch`; the next call overwrites them and the gradients."""
        if self.graph is None and self.num_plain < PLAIN_STEPS:
            return self._plain(batch)
        if self.graph is None:
            self._capture(batch)
        for name, static in self.inputs.items():
            static.copy_(getattr(batch, name), non_blocking=True)
        self.graph.replay()
        return self.values

    def _plain(self, batch: Batch) -> dict[str, Tensor]:
        self.num_plain += 1
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            values = self._gradients(batch)
        torch.cuda.current_stream().wait_stream(self.stream)
        return values

    def _capture(self, batch: Batch) -> None:
        """Record the step's work without doing it; a failed capture leaves torch's generators unusable."""
        self.inputs = {field.name: value.clone() for field in fields(Batch)
                       if (value := getattr(batch, field.name)) is not None}
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.generator)
        try:
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.values = self._gradients(Batch(**self.inputs))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RunError("a CUDA graph cannot hold this experiment's step; run it again with --set "
                           "train.capture=false") from error

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Return the figures; gradients are written anew, not added to what was there."""
        self.model.zero_grad(set_to_none=True)
        values = self.losses_of(batch)
        values["loss"].backward()
        return {name: value.detach() for name, value in values.items()}
