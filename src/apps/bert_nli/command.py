"""`python -m src bert_nli --pairs FILE.csv`: BERT on labelled sentence pairs under the five fine-tuning regimes.

Beside the stream: nothing of the audio side is used. plan.py plans the regimes, a folder each under data/runs/<name of
the CSV>/ and a ledger row; run.py trains one. What is finished is never done again; what was stopped goes on. Needs the
package transformers, which the stream does not: `.venv/bin/python -m pip install transformers`.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from src.apps.bert_nli.plan import make_plan
from src.apps.bert_nli.row import row_of
from src.apps.bert_nli.study import Study
from src.base.errors import SettingError
from src.ledger import file as ledger
from src.ledger.record import do_once
from src.settings.config import REGIMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src bert_nli`."""
    parser.add_argument("--pairs", required=True, type=Path, metavar="FILE.csv",
                        help="training pairs: columns premise, hypothesis, label")
    parser.add_argument("--valid", type=Path, metavar="FILE.csv", help="validation pairs (default: a fifth held out)")
    parser.add_argument("--regime", choices=("all", *REGIMES), default="all", help="default: %(default)s")
    parser.add_argument("--layers", type=int, help="layers frozen by freeze_first, kept by first_layers (default: "
                        "three quarters, 9 of 12)")
    parser.add_argument("--heads", default="", metavar="L.H,L.H", help="heads to remove, layer.head from 0")
    parser.add_argument("--remove", type=int, metavar="N", help="remove the N least important heads instead (default: "
                        "a quarter)")
    parser.add_argument("--size", choices=("small", "base"), default="small", help="default: %(default)s")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="a BERT model in the Hugging Face layout, with its "
                        "tokeniser; default: random weights")
    parser.add_argument("--vocab", type=Path, metavar="FILE", help="vocab.txt or tokenizer.json (default: trained on "
                        "the pairs)")
    for name, about in (("vocab_size", "pieces of a trained vocabulary"), ("max_length", "tokens of a pair"),
                        ("epochs", "passes over the pairs"), ("batch_size", "pairs a step"), ("lr", "learning rate"),
                        ("seed", "of weights, order and dropout")):
        default = getattr(Study, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default,
                            help=f"{about} (default: %(default)s)")


def main(options: argparse.Namespace) -> None:
    """Run the missing regimes and print what each gave."""
    results = [run(options, regime) for regime in (REGIMES if options.regime == "all" else (options.regime,))]
    print(f"\n{'regime':20}{'learning':>13}{'of':>13}{'s/epoch':>9}{'peak MB':>9}{'file MB':>9}{'valid':>8}")
    for result in results:
        print(f"{result['regime']:20}{result['learning']:13,}{result['params']:13,}{result['epoch_s']:9.1f}"
              f"{result['peak_mb'] or 0:9.0f}{result['file_mb']:9.1f}{result['valid']:8.4f}")


def run(options: argparse.Namespace, regime: str) -> dict[str, Any]:
    """Return the result of one regime, trained now or before, with its row in the ledger once."""
    plan = make_plan(options, regime)
    is_done = plan.run.is_done()
    if is_done:
        print(f"{plan.run.directory.name} is there, skipped")

    def work() -> dict[str, Any]:
        if not find_spec("transformers"):
            raise SettingError("bert_nli needs the package transformers: .venv/bin/python -m pip install transformers")
        from src.apps.bert_nli.run import run_regime

        return run_regime(plan)

    return do_once(plan, work, lambda result: ledger.record(row_of(plan, options, result)), is_done)
