"""What a regime will be before it is trained: its settings, its files, its digest and its place."""

import argparse
import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.apps.bert_nli.study import SIZES, Study
from src.base.errors import InputError, SettingError
from src.base.files import digest, read_json
from src.base.machine import has_gpu, usable_cpus
from src.base.workspace import runs_dir
from src.runs.folder import Run

VERSION = 1  # raise it when the code changes what a run computes


@dataclass(frozen=True)
class PairPlan:
    """One regime before it is trained.

    pairs, valid: CSVs of training and validation pairs; without the latter a fifth is held out. vocab: the file of a
    vocabulary, or None to train one. weights: a BERT model in the Hugging Face layout, or None for random ones.
    sources: the digest of each file, by what it is for.
    """

    study: Study
    pairs: Path
    valid: Path | None
    vocab: Path | None
    weights: Path | None
    sources: dict[str, str]

    @property
    def digest(self) -> str:
        """The digest of all that decides the result."""
        return digest({"version": VERSION, "files": self.sources, "study": asdict(self.study)})

    @property
    def run(self) -> Run:
        """The run on disk."""
        return Run(runs_dir(self.pairs.stem) / f"{self.study.name}-{self.digest[:8]}")

    def group(self, study: Study) -> str:
        """Return the ledger's group of a study on these files: equal but for the seed and the machine."""
        settings = {key: value for key, value in asdict(study).items() if key not in ("seed", "threads", "device")}
        return digest({"files": self.sources, "study": settings})[:8]


def make_plan(options: argparse.Namespace, regime: str) -> PairPlan:
    """Return what training a regime will be; raises SettingError or InputError for what cannot work."""
    study = study_of(options, regime)
    sources = {name: _file_digest(path) for name, path in _files(options).items()}
    return PairPlan(study, options.pairs, options.valid, _vocab(options), options.weights, sources)


def study_of(options: argparse.Namespace, regime: str) -> Study:
    """Return the settings of one regime; what the others use stays at its default and out of the digest."""
    num_layers, num_heads = shape(options)
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


def shape(options: argparse.Namespace) -> tuple[int, int]:
    """Return the number of layers and of heads in a layer."""
    if options.weights is None:
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
