"""Several processes as one training run: what they send to one another. In a single process nothing here does anything.

`torchrun` starts the processes; gradients are averaged by torch's DistributedDataParallel, over NCCL on GPUs and gloo
on CPUs. Only rank 0 writes files, and it broadcasts what the others must know of them (what is done, where to go on),
so that machines need to share no disk but the store.
"""

import contextlib
import datetime
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from src.base.distributed import is_main, world_size
from src.base.files import lock

TIMEOUT = datetime.timedelta(hours=2)  # rank 0 may preprocess or wait for another run while the others wait for it


def start(device: str) -> None:
    """Join the other processes, once; each takes the GPU of its local rank."""
    if world_size() == 1:
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)


def leave(code: int) -> NoReturn:
    """End this process with an exit code, after the others have come as far if it is 0.

    At once, since gloo's threads may abort a process that is torn down step by step.
    """
    if code == 0 and torch.distributed.is_initialized():
        torch.distributed.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wrap_ddp(model: nn.Module, device: str, skips: bool = False) -> nn.Module:
    """Return `model` wrapped so that backward averages its gradients over the processes.

    skips: whether a step may leave parameters out, other ones in each process, as layer drop does.
    """
    if world_size() == 1:
        return model
    return torch.nn.parallel.DistributedDataParallel(
        model, device_ids=[torch.cuda.current_device()] if device == "cuda" else None, find_unused_parameters=skips)


def broadcast(value: Any) -> Any:
    """Return rank 0's `value` in every process."""
    if world_size() == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def mean(values: Mapping[str, float]) -> dict[str, float]:
    """Return each value averaged over the processes."""
    parts = _gather(dict(values))
    return {name: sum(part[name] for part in parts) / len(parts) for name in values}


def any_of(flag: bool) -> bool:
    """Return whether the flag is set in any process; all must ask at the same moment."""
    return any(_gather(flag))


def _gather(value: Any) -> list[Any]:
    """Return every process's `value`, by rank."""
    if world_size() == 1:
        return [value]
    parts: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(parts, value)
    return parts


@contextlib.contextmanager
def main_lock(path: Path, wait_message: str) -> Iterator[None]:
    """Hold the lock in rank 0 alone, the others entering after it."""
    with lock(path, wait_message) if is_main() else contextlib.nullcontext():
        broadcast(None)
        yield
