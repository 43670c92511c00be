"""From a corpus of speaker folders to a closed competition that the stream reads and the ledger scores locally.

    python -m src make-competition LibriSpeech data/libri [--train-per-speaker N] [--test-per-speaker M] [--speakers K]
                                                          [--shift] [--seed S]

Beside the stream. Goes in: a corpus (see corpus.py). Comes out, whole or not at all: a folder of audio with
train/<speaker>/…, test files whose names mean nothing, sample_submission.csv, solution.csv (public and private halves,
read for the local score alone), utterances.csv where sessions are known, and with --shift conditions.csv. Every speaker
stands on both sides, a session never does: it is the room and microphone that a model must not be scored on again.
Files are linked, or copied where they cannot be, and never moved.
"""

import shlex
from argparse import ArgumentParser, Namespace

from src.base.workspace import DATA_DIR


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `python -m src make-competition`."""
    parser.add_argument("corpus", metavar="CORPUS_DIR",
                        help="folders of speakers at any level, or tables of Kaldi, Common Voice, …")
    parser.add_argument("out", metavar="OUT", help="the competition's folder, such as data/mine; must not exist")
    parser.add_argument("--train-per-speaker", type=int, metavar="N", help="default: all that are not for the test")
    parser.add_argument("--test-per-speaker", type=int, metavar="M", help="default: about a fifth of them")
    parser.add_argument("--speakers", type=int, metavar="K", help="as many, drawn at random (default: all)")
    parser.add_argument("--speaker-level", type=int, metavar="L",
                        help="1: the folders in CORPUS_DIR are the speakers, 2: those in them, … (default: found)")
    parser.add_argument("--shift", action="store_true",
                        help="send 70 %% of the test utterances through another session (noise, room, line, …)")
    parser.add_argument("--seed", type=int, default=0, help="of every draw (default: %(default)s)")


def main(options: Namespace) -> None:
    """Make the competition that the command line asks for, and print what to run next."""
    from src.apps.make_competition.make import make_competition

    out = make_competition(options.corpus, options.out, train_per_speaker=options.train_per_speaker,
                           test_per_speaker=options.test_per_speaker, num_speakers=options.speakers,
                           speaker_level=options.speaker_level, shift=options.shift, seed=options.seed)
    named = out.name if out.parent == DATA_DIR else str(out)
    print(f"next: bash run.sh --data {shlex.quote(named)}")
