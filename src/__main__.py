"""`python -m src STAGE …`: argument parsing only; each stage is imported when it is called."""

import argparse
import sys

from src.errors import SpeakerIDError

EPILOG = "Without a stage: `run`, every stage in order. A run is named <competition>/<experiment>-<digest8>; a unique "\
         "prefix will do."


def parser() -> argparse.ArgumentParser:
    """Return the parser of all stages."""
    top = argparse.ArgumentParser(prog="python -m src", description="Who speaks? From a folder of utterances to "
                                  "submission.csv.", epilog=EPILOG)
    top.add_argument("--verbose", action="store_true", help="show the traceback of an error")
    stages = top.add_subparsers(dest="stage", required=True, metavar="STAGE")

    def stage(name: str, about: str) -> argparse.ArgumentParser:
        return stages.add_parser(name, help=about, description=about)

    for name, about in (("run", "run every stage that is not done yet and write submission.csv"),
                        ("preprocess", "stage 1: competition to memory-mapped store"),
                        ("train", "stage 2: store to fitted folds, out-of-fold and test logits")):
        one = stage(name, about)
        _add_setting(one)
        if name == "run":
            one.add_argument("--out", metavar="FILE", help="where to write the submission (default: submission.csv)")
    one = stage("ensemble", "stage 3: blend finished runs, weights fitted on out-of-fold logits")
    one.add_argument("runs", nargs="+", metavar="RUN", help="a run, or a unique prefix of its name")
    one = stage("submit", "stage 4: write the submission of a run or blend")
    one.add_argument("run", metavar="RUN", help="a run or blend, or a unique prefix of its name")
    one.add_argument("--data", default="japanese_vowels", metavar="NAME_OR_DIR", help="the competition")
    one.add_argument("--out", metavar="FILE", help="where to write the submission (default: submission.csv)")
    one.add_argument("--name", help="name of the copy under submissions/<competition>/")
    one.add_argument("--kaggle", metavar="COMPETITION", help="also submit it through the kaggle CLI")
    one = stage("ledger", "the ablation ledger: table, plot, scores")
    from src.ledger import add_arguments

    add_arguments(one)
    return top


def _add_setting(one: argparse.ArgumentParser) -> None:
    one.add_argument("--data", default="japanese_vowels", metavar="NAME_OR_DIR",
                     help="a competition under data/, or any folder (default: %(default)s)")
    one.add_argument("--experiment", default="default", metavar="NAME",
                     help="an experiment's name or a promoted .json file (default: %(default)s)")
    one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                     help="replace a setting, such as optim.lr=3e-4; may be repeated")
    one.add_argument("--smoke", action="store_true",
                     help="cut to a minute or two, in a workspace of its own (data/smoke)")


def main(arguments: list[str] | None = None) -> int:
    """Run one stage and return the exit code: 0 done, 1-4 an expected error, 130 interrupted."""
    options = parser().parse_args(arguments)
    try:
        if options.stage == "ledger":
            from src import ledger

            ledger.main(options)
        else:
            from src import stream

            getattr(stream, options.stage)(options)
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
