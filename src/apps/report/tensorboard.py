"""A run's log.csv files as event files for TensorBoard, where the optional package is installed."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.base.errors import SettingError

TAGS = {"accuracy": "accuracy/training", "valid_metric": "accuracy/held_out", "loss": "loss/training",
        "valid_loss": "loss/held_out", "lr": "learning_rate"}


def summary_writer() -> type:
    """Return torch's SummaryWriter; raises SettingError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SettingError(f"--tensorboard: the package is not there ({error}); install it with "
                           "`.venv/bin/python -m pip install tensorboard`") from error
    return SummaryWriter


def write_events(directory: Path, logs: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write curves into one folder of `directory` each, anew where they were written before.

    logs: {folder: {column: values}}, each with a column "step".
    """
    writer_class = summary_writer()
    for folder, log in logs.items():
        for old in (directory / folder).glob("events.out.tfevents.*"):
            old.unlink()
        with writer_class(str(directory / folder)) as writer:
            for column, values in log.items():
                for step, value in zip(log["step"].tolist(), values.tolist()):
                    if column != "step" and math.isfinite(value):
                        writer.add_scalar(TAGS.get(column, column), value, int(step))
