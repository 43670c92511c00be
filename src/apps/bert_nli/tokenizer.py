"""BERT's tokens of sentence pairs: a WordPiece vocabulary, read or trained, and the ids of each pair."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from src.apps.bert_nli.pairs import Pair
from src.base.errors import InputError, SettingError
from src.base.tables import read_json

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # BERT's, in this order: [PAD] is id 0


@dataclass(frozen=True)
class Encoded:
    """A pair as token ids: [CLS] premise [SEP] hypothesis [SEP], and 0 or 1 for each token's sentence."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]


def train_tokenizer(pairs: list[Pair], vocab_size: int, max_length: int) -> Tokenizer:
    """Return a lower-casing WordPiece tokeniser of at most `vocab_size` pieces, trained on both sentences of pairs."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator((text for pair in pairs for text in pair[:2]), trainer)
    return _prepare(tokenizer, max_length)


def load_tokenizer(path: Path, max_length: int) -> Tokenizer:
    """Return the tokeniser of a vocab.txt (one piece a line, BERT's special ones among them) or a tokenizer.json.

    A tokenizer_config.json beside a vocab.txt says whether it is lower-cased (`do_lower_case`, true by default).
    """
    try:
        if path.suffix == ".json":
            return _prepare(Tokenizer.from_file(str(path)), max_length)
        pieces = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # U+2028 is a piece of some
    except Exception as error:  # tokenizers raises plain Exceptions
        raise InputError(f"{path}: not a tokenizer.json or vocab.txt ({error})") from error
    missing = [piece for piece in SPECIAL if piece not in pieces]
    if missing:
        raise InputError(f"{path}: the vocabulary lacks {', '.join(missing)}")
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    settings_path = path.with_name("tokenizer_config.json")
    settings = read_json(settings_path) if settings_path.exists() else {}
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=settings.get("do_lower_case", True))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _prepare(tokenizer, max_length)


def _prepare(tokenizer: Tokenizer, max_length: int) -> Tokenizer:
    """Let a tokeniser put [CLS] and [SEP] around pairs, cut them to max_length tokens, and pad nothing."""
    ids = {piece: tokenizer.token_to_id(piece) for piece in ("[CLS]", "[SEP]")}
    if max_length < 8 or None in ids.values():
        raise SettingError(f"max_length {max_length} must be 8 at least, and the tokeniser must know [CLS] and [SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=list(ids.items()))
    tokenizer.enable_truncation(max_length)
    tokenizer.no_padding()
    return tokenizer


def encode(tokenizer: Tokenizer, pairs: list[Pair]) -> list[Encoded]:
    """Return pairs as token ids, the longer sentence of one that is too long cut at its end."""
    return [Encoded(tuple(item.ids), tuple(item.type_ids)) for item in
            tokenizer.encode_batch([(pair.premise, pair.hypothesis) for pair in pairs])]
