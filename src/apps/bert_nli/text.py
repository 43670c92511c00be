"""Labelled sentence pairs: a CSV (premise, hypothesis, label) in, token ids for BERT out.

Beside the stream: nothing of the audio side is used. Needs the packages transformers and tokenizers, which the stream
does not: `.venv/bin/python -m pip install transformers`.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from src.base.errors import InputError, SettingError
from src.base.tables import read_json

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

COLUMNS = ("premise", "hypothesis", "label")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # BERT's, in this order: [PAD] is id 0


class Pair(NamedTuple):
    """Two sentences and what the second is to the first (entailment, neutral, contradiction, say)."""

    premise: str
    hypothesis: str
    label: str


@dataclass(frozen=True)
class Encoded:
    """A pair as token ids: [CLS] premise [SEP] hypothesis [SEP], and 0 or 1 for each token's sentence."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]


def read_pairs(path: Path) -> list[Pair]:
    """Return the pairs of a CSV file with the columns premise, hypothesis and label.

    Raises InputError, naming the line, for a missing column, an empty cell, or a file without pairs.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: no column {', '.join(missing)}; its first line must name "
                                 f"{', '.join(COLUMNS)}")
            pairs = []
            for row in reader:
                cells = [(row[name] or "").strip() for name in COLUMNS]
                if not all(cells):
                    raise InputError(f"{path}, line {reader.line_num}: an empty {COLUMNS[cells.index('')]}; fill it in "
                                     "or delete the line")
                pairs.append(Pair(*cells))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not readable as UTF-8 CSV ({error}); save it so") from error
    if not pairs:
        raise InputError(f"{path}: holds no pairs")
    return pairs


def label_names(pairs: list[Pair]) -> tuple[str, ...]:
    """Return the classes in alphabetical order; raises InputError for fewer than two."""
    names = tuple(sorted({pair.label for pair in pairs}))
    if len(names) < 2:
        raise InputError(f"only one class, '{names[0]}', in the label column; two are needed at least")
    return names


def label_indices(pairs: list[Pair], names: tuple[str, ...]) -> np.ndarray:
    """Return (N,) int64 classes of pairs; raises InputError for a label that training does not know."""
    import numpy as np

    unknown = sorted({pair.label for pair in pairs} - set(names))
    if unknown:
        raise InputError(f"label '{unknown[0]}' stands in the validation pairs and not in the training pairs, which "
                         f"have {', '.join(names)}")
    return np.array([names.index(pair.label) for pair in pairs], np.int64)


def hold_out(pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Return training and held-out pairs, a fifth of each class held out, the same on every call.

    Pairs of one premise stay on one side, for a model could know its label by heart. Raises InputError for too few.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    rare, number = min((number, name) for name, number in Counter(pair.label for pair in pairs).items())[::-1]
    num_premises = len({pair.premise for pair in pairs})
    if min(number, num_premises) < 5:
        raise InputError(f"too few pairs to hold a fifth out: {number} of '{rare}' and {num_premises} premises, 5 of "
                         "each are needed; or give --valid FILE")
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    train, valid = next(splitter.split(pairs, [pair.label for pair in pairs], [pair.premise for pair in pairs]))
    return [pairs[i] for i in train], [pairs[i] for i in valid]


def train_tokenizer(pairs: list[Pair], vocab_size: int, max_length: int) -> Tokenizer:
    """Return a lower-casing WordPiece tokeniser of at most `vocab_size` pieces, trained on both sentences of pairs."""
    tokenizers = import_tokenizers()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL),
                                                   show_progress=False)
    tokenizer.train_from_iterator((text for pair in pairs for text in pair[:2]), trainer)
    return _prepare(tokenizer, max_length)


def load_tokenizer(path: Path, max_length: int) -> Tokenizer:
    """Return the tokeniser of a vocab.txt (one piece a line, BERT's special ones among them) or a tokenizer.json.

    A tokenizer_config.json beside a vocab.txt says whether it is lower-cased (`do_lower_case`, true by default).
    """
    tokenizers = import_tokenizers()
    try:
        if path.suffix == ".json":
            return _prepare(tokenizers.Tokenizer.from_file(str(path)), max_length)
        pieces = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # U+2028 is a piece of some
    except Exception as error:  # tokenizers raises plain Exceptions
        raise InputError(f"{path}: not a tokenizer.json or vocab.txt ({error})") from error
    missing = [piece for piece in SPECIAL if piece not in pieces]
    if missing:
        raise InputError(f"{path}: the vocabulary lacks {', '.join(missing)}")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece({p: i for i, p in enumerate(pieces)},
                                                                 unk_token="[UNK]"))
    settings_path = path.with_name("tokenizer_config.json")
    settings = read_json(settings_path) if settings_path.exists() else {}
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=settings.get("do_lower_case", True))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return _prepare(tokenizer, max_length)


def _prepare(tokenizer: Tokenizer, max_length: int) -> Tokenizer:
    """Let a tokeniser put [CLS] and [SEP] around pairs, cut them to max_length tokens, and pad nothing."""
    ids = {piece: tokenizer.token_to_id(piece) for piece in ("[CLS]", "[SEP]")}
    if max_length < 8 or None in ids.values():
        raise SettingError(f"max_length {max_length} must be 8 at least, and the tokeniser must know [CLS] and [SEP]")
    tokenizer.post_processor = import_tokenizers().processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=list(ids.items()))
    tokenizer.enable_truncation(max_length)
    tokenizer.no_padding()
    return tokenizer


def encode(tokenizer: Tokenizer, pairs: list[Pair]) -> list[Encoded]:
    """Return pairs as token ids, the longer sentence of one that is too long cut at its end."""
    return [Encoded(tuple(item.ids), tuple(item.type_ids)) for item in
            tokenizer.encode_batch([(pair.premise, pair.hypothesis) for pair in pairs])]


def import_tokenizers() -> ModuleType:
    """Import the optional package; raises SettingError saying how to get it."""
    try:
        import tokenizers
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
        import tokenizers.processors
        import tokenizers.trainers
    except ImportError as error:
        raise SettingError(f"sentence pairs need the package transformers ({error}): .venv/bin/python -m pip install "
                           "transformers") from error
    return tokenizers
