"""`python -m src STAGE …`: argument parsing only; each stage is imported when it is called."""

import argparse
import errno
import importlib
import os
import sys
from pathlib import Path

from src.base import distributed
from src.base.errors import RunError, SettingError, SpeakerIDError
from src.base.files import is_disk_full
from src.base.workspace import VARIABLE, workspace_dir
from src.settings import arguments

# Idle OpenMP threads spin for a moment, not for milliseconds, before they sleep: alone a step takes as long (ECAPA-TDNN
# 118 ms against 119), beside another busy process half to a fifth of the time. With a tenth of this moment a loop of
# `course`'s predictions, whose pieces are small, was a sixth slower.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

STREAM = {  # stages of the stream, functions of src.stream
    "run": "run every stage that is not done yet and write submission.csv",
    "preprocess": "stage 1: competition to memory-mapped store",
    "train": "stage 2: store to fitted folds, out-of-fold and test logits",
    "ensemble": "stage 3: blend finished runs, weights fitted on out-of-fold logits",
    "submit": "stage 4: write the submission of a run or blend",
}
BESIDE = {  # stages beside it: module with add_arguments and main
    "experiments": ("src.apps.experiments", "all experiments, with what the ledger has of each; one's model by layers"),
    "ablate": ("src.search.ablate", "a ladder of experiments, one technique a rung, at equal steps"),
    "tune": ("src.search.tune", "an Optuna search over an experiment's settings; promote its best"),
    "make-competition": ("src.apps.make_competition.command",
                         "a corpus of speaker folders as a closed competition with a solution"),
    "predict": ("src.apps.predict.command", "who speaks in new recordings, with calibrated probabilities"),
    "open-set": ("src.apps.open_set", "measure predict's threshold for \"none of them\" and its two error rates"),
    "export": ("src.apps.export.command", "a run as one ONNX file, checked against its models"),
    "pretrain": ("src.apps.pretrain.command", "wav2vec 2.0 without labels: an encoder file that train starts from"),
    "ctc": ("src.apps.ctc.command", "speech to characters: an encoder trained by CTC on transcripts"),
    "report": ("src.apps.report.command",
               "a run's page: curves, confusions, reliability, speakers, neighbours in the ledger"),
    "status": ("src.apps.status.command",
               "what is cached, trained and running, with sizes; --prune removes what nothing needs"),
    "head_importance": ("src.apps.head_importance",
                        "how much each attention head of a finished run matters, as a picture"),
    "bert_nli": ("src.apps.bert_nli.command", "BERT on labelled sentence pairs under the five fine-tuning regimes"),
    "conditions": ("src.apps.conditions", "a run's accuracy on held-out utterances as other sessions would give them"),
    "bench": ("src.apps.bench.command", "throughput and memory of each stage on this machine"),
    "ledger": ("src.apps.ledger", "the ablation ledger: table, plot, scores"),
}
SHARED = ("train", "ablate")  # what may run in several processes at once


def parser(stage: str) -> argparse.ArgumentParser:
    """Return the parser of all stages, with the arguments of `stage`."""
    top = argparse.ArgumentParser(
        prog="run.sh", allow_abbrev=False,
        description="Who speaks? From a folder of utterances to submission.csv. Without a STAGE: run.",
        epilog="A run is named <competition>/<experiment>-<digest8>; a unique prefix will do.")
    top.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    stages = top.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name, about in (STREAM | {name: about for name, (_, about) in BESIDE.items()}).items():
        one = stages.add_parser(name, help=about, description=about, allow_abbrev=False)
        if name != stage:
            continue
        one.add_argument("--verbose", action="store_true", default=argparse.SUPPRESS,
                         help="show the traceback of an error")
        if name in BESIDE:
            importlib.import_module(BESIDE[name][0]).add_arguments(one)
        else:
            _add_stream_arguments(one, name)
    return top


def _add_stream_arguments(one: argparse.ArgumentParser, stage: str) -> None:
    if stage == "ensemble":
        one.add_argument("runs", nargs="+", metavar="RUN", help="a run, or a unique prefix of its name")
        one.add_argument("--classes", choices=("auto", "even", "any"), default="auto",
                         help="whether the test part has as many utterances of every class: even, any when that is "
                              "not known, auto to tell from the predictions (default)")
        return
    if stage == "submit":
        one.add_argument("run", metavar="RUN", help="a run or blend, or a unique prefix of its name")
        one.add_argument("--name", help="name of the copy under submissions/<competition>/")
        one.add_argument("--kaggle", metavar="COMPETITION", help="also submit it through the kaggle CLI")
        arguments.add_arguments(one, data={
            "default": None, "help": "a competition under data/, or any folder (default: that of RUN)"})
    else:
        arguments.add_arguments(one, "data", "experiment", "set", "smoke")
    if stage in ("run", "submit"):
        one.add_argument("--out", metavar="FILE", help="where to write the submission (default: submission.csv)")


def with_stage(arguments: list[str]) -> list[str]:
    """Return the arguments with the stage "run" before them where they name none and do not ask for the list of stages.

    A --verbose may stand before the stage.
    """
    first = next((word for word in arguments if word != "--verbose"), "")
    if first in ("-h", "--help") or (first and not first.startswith("-")):
        return arguments
    return ["run", *arguments]


def main(arguments: list[str] | None = None) -> int:
    """Run one stage and return the exit code: 0 done, 1-4 an expected error, 130 interrupted."""
    arguments = with_stage(sys.argv[1:] if arguments is None else arguments)
    stage = next((word for word in arguments if not word.startswith("-")), "")
    options = parser(stage).parse_args(arguments)
    if not distributed.is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (to the end: rank 0 speaks for all)
    try:
        if distributed.world_size() > 1 and stage not in SHARED:
            raise SettingError(f"torchrun starts several processes, and only {' and '.join(SHARED)} can share their "
                               "work between them; run the other stages with `bash run.sh`")
        if stage in BESIDE:
            importlib.import_module(BESIDE[stage][0]).main(options)
        else:
            getattr(importlib.import_module("src.stream"), stage)(options)
    except SpeakerIDError as error:
        if options.verbose:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted; what was done is saved: the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except RuntimeError as error:
        is_full = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)  # torch's
        if options.verbose or not is_full:
            raise
        print(f"error: the memory does not hold it ({str(error).partition('. ')[0]}); lower train.batch_size or "
              "train.crop_frames, or infer.frame_budget where it failed after training", file=sys.stderr)
        return RunError.exit_code
    except OSError as error:
        if options.verbose:
            raise
        print(f"error: {error.filename or 'reading or writing'}: {_remedy(error)}", file=sys.stderr)
        return RunError.exit_code
    return 0


def _remedy(error: OSError) -> str:
    """Return what an error of the operating system says, and what helps against it where that is known."""
    if is_disk_full(error):
        return "the disk is full; make room and run the same command again"
    is_forbidden = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    if is_forbidden and Path(str(error.filename)).absolute().is_relative_to(workspace_dir().absolute()):
        return (f"{error.strerror}; {VARIABLE}=DIR before the same command writes everything to a folder of yours "
                f"instead of {workspace_dir()}")
    return f"{error.strerror or error} (--verbose shows where)"


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be UTF-8
    os.environ["PYTHONIOENCODING"] = f"{sys.stdout.encoding}:backslashreplace"  # in processes started later as well
    code = main()
    if distributed.world_size() > 1:
        from src.training.collectives import leave

        leave(code)
    sys.exit(code)
