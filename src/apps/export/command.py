"""Export a finished run to ONNX: one file that answers without torch, checked against the models before it is kept.

    python -m src export japanese_vowels/default --onnx speakers.onnx

Goes in: a run. Comes out: a file with inputs `inputs` (float32: waveforms (batch, samples) at the peak and sample rate
that its metadata states, or frames (batch, frames, features)) and `lengths` (int64: (batch,)), and outputs `probs`,
`log_probs` (batch, speakers) and `energy` (batch,). `predict --onnx` runs on it. --int8 writes a second file with
weights of 8 bits, and scores both on held-out utterances, each by the one fold's model that has not heard it.
"""

import argparse
from pathlib import Path

from src.apps.predict.onnx_packages import require
from src.base.errors import SettingError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src export`."""
    parser.add_argument("run", metavar="RUN", help="a finished run, or a unique prefix of its name")
    parser.add_argument("--onnx", required=True, metavar="FILE", type=Path, help="the file to write")
    parser.add_argument("--fold", type=int, metavar="K", help="this fold's model alone (default: all, averaged)")
    parser.add_argument("--int8", action="store_true",
                        help="also write FILE with .int8.onnx for its ending, quantised, and score both")


def main(options: argparse.Namespace) -> None:
    """Export a run and say how well the file agrees with its models."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require(name)
    if options.onnx.is_dir():
        raise SettingError(f"--onnx {options.onnx}: a folder; name a file, such as speakers.onnx")
    from src.apps.export.run import run

    run(options)
