"""Say who speaks in new recordings, with calibrated probabilities; a timeline for long ones; "none of them" where told.

    python -m src predict meeting.wav interviews/ --data so762 --top 3
    python -m src predict meeting.wav --onnx speakers.onnx          (no torch in the process)

Goes in: files, and folders of files, of audio or of frames as the run takes them. Comes out: a table, JSON or CSV. A
recording of more than 20 s is answered by windows of 3 s, each seen as an utterance of its own, and its speakers' share
of the time; it may hold several. Where nothing sounds, nobody speaks. A file that cannot be read is named and left out,
and the exit code is then 3.
"""

import argparse
from pathlib import Path

from src.apps.predict.timeline import NOBODY
from src.base.errors import SettingError
from src.settings import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src predict`."""
    parser.add_argument("files", nargs="+", metavar="FILE_OR_DIR", help="recordings, or folders of them at any depth")
    arguments.add_arguments(parser, data={
        "metavar": "COMPETITION", "help": "whose newest finished run answers (default: %(default)s)"})
    parser.add_argument("--run", metavar="NAME", help="the run that answers, or a unique prefix of its name")
    parser.add_argument("--onnx", metavar="FILE", type=Path, help="an exported model that answers, without torch")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="speakers to name (default: %(default)s)")
    parser.add_argument("--threshold", type=float, metavar="P",
                        help=f'below this probability it is "{NOBODY}" (default: as `open-set` measured)')
    parser.add_argument("--json", action="store_true", help="print JSON, and everything else to standard error")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="also write a row a segment to this file")


def main(options: argparse.Namespace) -> None:
    """Answer every recording; raises InputError at the end where some could not be read."""
    if options.top < 1:
        raise SettingError(f"--top {options.top}: at least 1")
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise SettingError(f"--threshold {options.threshold}: a probability, 0 to 1")
    if options.csv and options.csv.is_dir():
        raise SettingError(f"--csv {options.csv}: a folder; name a file, such as {options.csv / 'answers.csv'}")
    from src.apps.predict.run import run

    run(options)
