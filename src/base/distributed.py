"""This process's place among those that `torchrun` started, as its environment variables say; imports no torch.

What the processes send to one another is in `src.training.collectives`.
"""

import os


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


def share(first: int, count: int) -> tuple[int, int]:
    """Return the (first, count) of this process's part of `count` samples from `first` on; `count` divides evenly."""
    part = count // world_size()
    return first + rank() * part, part
