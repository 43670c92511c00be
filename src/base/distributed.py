"""Several processes as one training run: rank, share, reduce. For a single process everything here does nothing.

`torchrun` starts the processes and tells each its place by environment variables; gradients are averaged by torch's
DistributedDataParallel, over NCCL on GPUs and gloo on CPUs. Only rank 0 writes files, and what the others must know of
them (what is done, where to go on) it tells them, so that machines need share no disk but the store.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from src.base.files import lock

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

TIMEOUT = datetime.timedelta(hours=2)  # rank 0 may preprocess or wait for another run while the others wait for it


def world_size() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Return how many of them run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def rank() -> int:
    """Return this process's place among them, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Return whether this process is the one that writes."""
    return rank() == 0


def command(stage: str) -> list[str]:
    """Return the beginning of the command line that runs a stage as this one runs: "run" or "train"."""
    if world_size() == 1:
        return ["bash", "run.sh", *([] if stage == "run" else [stage])]
    nodes = world_size() // local_world_size()
    return ["bash", "run.sh", "torchrun", *(["--nnodes", str(nodes)] if nodes > 1 else []), "--nproc-per-node",
            str(local_world_size()), "-m", "src", "train"]


def start(device: str) -> None:
    """Join the other processes, once; each takes the GPU of its local rank."""
    import torch

    if world_size() == 1:
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)


def leave(code: int) -> NoReturn:
    """End this process with an exit code, after the others have come as far where it is 0.

    At once, since gloo's threads may abort a process that is torn down step by step.
    """
    import torch

    if code == 0 and torch.distributed.is_initialized():
        torch.distributed.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def averaged(model: nn.Module, device: str, skips: bool = False) -> nn.Module:
    """Return `model` wrapped so that backward averages its gradients over the processes.

    skips: whether a step may leave parameters out, other ones in each process, as layer drop does.
    """
    if world_size() == 1:
        return model
    import torch

    return torch.nn.parallel.DistributedDataParallel(
        model, device_ids=[torch.cuda.current_device()] if device == "cuda" else None, find_unused_parameters=skips)


def share(first: int, count: int) -> tuple[int, int]:
    """Return the (first, count) of this process's part of `count` samples from `first` on; `count` divides evenly."""
    part = count // world_size()
    return first + rank() * part, part


def told(value: Any) -> Any:
    """Return rank 0's `value` in every process."""
    if world_size() == 1:
        return value
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def gathered(rows: np.ndarray, of: Any) -> np.ndarray:
    """Return of(rows) (len(rows), …) as an array, each process having computed every n-th row of it."""
    if world_size() == 1:
        return of(rows)
    import numpy as np
    import torch

    parts: list = [None] * world_size()
    torch.distributed.all_gather_object(parts, of(rows[rank() :: world_size()]))
    whole = np.empty((len(rows), *parts[0].shape[1:]), parts[0].dtype)
    for place, part in enumerate(parts):
        whole[place :: world_size()] = part
    return whole


def mean(values: Mapping[str, float]) -> dict[str, float]:
    """Return each value averaged over the processes."""
    if world_size() == 1:
        return dict(values)
    import torch

    parts: list = [None] * world_size()
    torch.distributed.all_gather_object(parts, dict(values))
    return {name: sum(part[name] for part in parts) / len(parts) for name in values}


def any_of(flag: bool) -> bool:
    """Return whether the flag is set in any process; all must ask at the same moment."""
    if world_size() == 1:
        return flag
    import torch

    parts: list = [None] * world_size()
    torch.distributed.all_gather_object(parts, flag)
    return any(parts)


@contextlib.contextmanager
def main_lock(path: Path, wait_message: str) -> Iterator[None]:
    """Hold the lock in rank 0 alone, the others entering after it."""
    with lock(path, wait_message) if is_main() else contextlib.nullcontext():
        told(None)
        yield
