"""`python -m src bert_nli --pairs FILE.csv`: BERT on labelled sentence pairs under the five fine-tuning regimes.

Beside the stream: this file plans and records the regimes, a folder each under data/runs/<name of the CSV>/ and a
ledger row; `src.apps.bert_nli.run` trains one. What is finished is never done again; what was stopped goes on.
"""

import argparse
import hashlib
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.apps.bert_nli.settings import Study
from src.base.errors import InputError, SettingError
from src.base.files import digest, lock, read_json
from src.base.machine import has_gpu, usable_cpus
from src.base.workspace import runs_dir
from src.ledger import file as ledger
from src.ledger.row import commit
from src.runs.folder import Run
from src.settings.config import REGIMES

VERSION = 1  # raise it when the code changes what a run computes


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
    study = _study(options, regime)
    sources = {name: _file_digest(path) for name, path in _files(options).items()}
    full = digest({"version": VERSION, "files": sources, "study": asdict(study)})
    directory = runs_dir(options.pairs.stem) / f"{study.name}-{full[:8]}"
    made = Run(directory)
    with lock(made.lock_path, f"{directory.name}: another process is training it; waiting"):
        if made.is_done():
            print(f"{directory.name} is there, skipped")
        else:
            from src.apps.bert_nli.run import PairRun

            fitted = PairRun(study, directory, options.pairs, options.valid, _vocab(options), options.weights).run()
            made.whole.finish(fitted)
        result = made.result
        if not ledger.contains(full, result["finished"]):
            ledger.record(_row(options, study, result, directory, full, sources))
    return result


def _study(options: argparse.Namespace, regime: str) -> Study:
    """Return the settings of one regime; what the others use stays at its default and out of the digest."""
    num_layers, num_heads = _shape(options)
    changes: dict[str, Any] = {}
    if regime in ("freeze_first", "first_layers"):
        changes["layers"] = num_layers * 3 // 4 if options.layers is None else options.layers
    if regime == "remove_heads" and options.heads:
        changes["heads"] = parse_heads(options.heads)
    elif regime == "remove_heads":
        changes["remove"] = max(1, num_layers * num_heads // 4) if options.remove is None else options.remove
    names = ("size", "vocab_size", "max_length", "epochs", "batch_size", "lr", "seed")
    study = Study(regime=regime, threads=usable_cpus(), device="cuda" if has_gpu() else "cpu", **changes,
                  **{name: getattr(options, name) for name in names})
    if min(study.epochs, study.batch_size) < 1 or study.lr <= 0 or study.seed < 0:
        raise SettingError("--epochs and --batch-size must be 1 at least, --lr above 0, --seed 0 at least")
    return study


def _shape(options: argparse.Namespace) -> tuple[int, int]:
    """Return the number of layers and of heads in a layer."""
    if options.weights is None:
        from src.apps.bert_nli.classifier import SIZES

        return SIZES[options.size][1:3]
    try:
        config = read_json(options.weights / "config.json")
        return config["num_hidden_layers"], config["num_attention_heads"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{options.weights}: not a folder with a BERT model's config.json ({error})") from error


def parse_heads(text: str) -> tuple[tuple[int, int], ...]:
    """Return ((layer, head), …) of "0.1,3.2"; raises SettingError."""
    try:
        heads = tuple((int(layer), int(head)) for layer, head in (item.split(".") for item in text.split(",")))
    except ValueError as error:
        raise SettingError(f"--heads {text}: write layer.head pairs from 0, such as 0.1,3.2") from error
    return heads


def _files(options: argparse.Namespace) -> dict[str, Path]:
    files = {"pairs": options.pairs, "valid": options.valid, "vocab": _vocab(options)}
    if options.weights is not None:
        files |= {name: options.weights / name for name in
                  ("config.json", "model.safetensors", "pytorch_model.bin") if (options.weights / name).exists()}
    return {name: path for name, path in files.items() if path is not None}


def _vocab(options: argparse.Namespace) -> Path | None:
    """Return the file of the vocabulary: the one given, else the one beside the weights, else None."""
    if options.vocab or not options.weights:
        return options.vocab
    for name in ("tokenizer.json", "vocab.txt"):
        if (options.weights / name).exists():
            return options.weights / name
    raise InputError(f"{options.weights}: no tokenizer.json or vocab.txt beside the weights; give --vocab FILE")


def _file_digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give the path of a file that is there") from error


def _row(options: argparse.Namespace, study: Study, result: dict[str, Any], directory: Path, full: str,
         sources: dict[str, str]) -> dict[str, Any]:
    """Return the run's ledger row: a change of the full regime."""
    from src.apps.bert_nli.classifier import SIZES

    def group(regime: Study) -> str:
        settings = {key: value for key, value in asdict(regime).items() if key not in ("seed", "threads", "device")}
        return digest({"files": sources, "study": settings})[:8]

    base = _study(options, "full")
    differing = {key: (old, new) for (key, old), new in zip(asdict(base).items(), asdict(study).values()) if old != new}
    width, layers, heads, _ = SIZES[study.size]
    if options.weights:
        layers, heads = _shape(options)
        width = read_json(options.weights / "config.json")["hidden_size"]
    return {
        "date": result["finished"], "source": "ours", "stage": "train", "competition": options.pairs.stem,
        "run_id": f"{directory.parent.name}/{directory.name}", "experiment": study.name,
        "parent": "" if study.regime == "full" else "bert_nli",
        "changed": "; ".join(f"finetune.{key}: {old} → {new}" for key, (old, new) in differing.items()),
        "encoder": "bert", "d_model": width, "layers": layers, "heads": heads, "pooling": "cls", "head": "linear",
        "batch_size": study.batch_size, "lr": study.lr, "params": result["params"], "steps": result["steps"],
        "folds": 1, "seeds": study.seed, "metric": "accuracy", "train": result["train"], "valid": result["valid"],
        "seconds": result["seconds"], "device": result["device"], "status": "ok", "commit": commit(), "digest": full,
        "group": group(study), "parent_group": "" if study.regime == "full" else group(base),
        "command": _command(options, study.regime),
        "note": f"{result['learning']:,} parameters learn; {result['epoch_s']:.1f} s an epoch"
                + (f"; peak {result['peak_mb']:.0f} MB" if result["peak_mb"] else ""),
    }


def _command(options: argparse.Namespace, regime: str) -> str:
    words = ["bash", "run.sh", "bert_nli", "--pairs", str(options.pairs), "--regime", regime]
    given = {"valid": options.valid, "weights": options.weights, "vocab": options.vocab, "layers": options.layers,
             "heads": options.heads, "remove": options.remove}
    given |= {key: getattr(options, key) for key in ("size", "vocab_size", "max_length", "epochs", "batch_size", "lr",
                                                     "seed")}
    for key, value in given.items():
        if value not in (None, "", getattr(Study, key, None)):
            words += [f"--{key.replace('_', '-')}", str(value)]
    return shlex.join(words)
