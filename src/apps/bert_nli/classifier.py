"""BERT over sentence pairs with one linear layer: token ids in, a logit a class out; its checkpoint rebuilds it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from src.apps.bert_nli.study import SIZES
from src.apps.bert_nli.tokenizer import Encoded
from src.base.errors import InputError
from src.base.files import atomic_open
from src.base.torch_files import load_tensors
from src.model import attention_heads, finetune
from src.model.masking import valid_mask

CHECKPOINT_FORMAT = 1


class PairClassifier(nn.Module):
    """Classify a pair by the pooled [CLS] of a transformers BertModel (Devlin et al., 2019)."""

    def __init__(self, config: BertConfig, num_classes: int) -> None:
        super().__init__()
        self.bert = BertModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, num_classes)

    def forward(self, ids: Tensor, type_ids: Tensor, lengths: Tensor) -> Tensor:
        """Return logits (B, num_classes) of token ids (B, T), of which the first lengths (B,) count."""
        mask = valid_mask(lengths, ids.shape[1]).long()
        pooled = self.bert(input_ids=ids, token_type_ids=type_ids, attention_mask=mask).pooler_output
        return self.classifier(self.dropout(pooled))


def make_config(size: str, vocab_size: int, max_length: int, weights: Path | None = None) -> BertConfig:
    """Return the configuration of a size, or of a Hugging Face folder of weights whose vocabulary must be this large.

    Raises InputError for a folder that does not fit.
    """
    if weights is None:
        width, layers, heads, feed_forward_dim = SIZES[size]
        return BertConfig(vocab_size=vocab_size, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                          intermediate_size=feed_forward_dim, max_position_embeddings=max(512, max_length))
    try:
        config = BertConfig.from_pretrained(weights, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{weights}: not a folder with a BERT model's config.json ({error})") from error
    if config.vocab_size < vocab_size or config.max_position_embeddings < max_length:
        raise InputError(f"{weights}: made for {config.vocab_size} pieces and {config.max_position_embeddings} tokens; "
                         f"the tokeniser has {vocab_size}, and --max-length is {max_length}")
    return config


def load_bert(model: PairClassifier, weights: Path) -> None:
    """Read the weights of a Hugging Face folder into the classifier's BERT; InputError for those that do not fit."""
    try:
        found, info = BertModel.from_pretrained(weights, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{weights}: not the weights of a BERT model ({error})") from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InputError(f"{weights}: {len(missing)} tensors are missing, such as {missing[0]}")
    model.bert.load_state_dict(found.state_dict())


def collate(items: list[Encoded], device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids and type ids (B, T), padded with zeros to the longest pair of the batch, and lengths (B,)."""
    lengths = torch.tensor([len(item.ids) for item in items])
    ids, type_ids = (torch.zeros(len(items), int(lengths.max()), dtype=torch.int64) for _ in range(2))
    for row, item in enumerate(items):
        ids[row, : len(item.ids)] = torch.tensor(item.ids)
        type_ids[row, : len(item.ids)] = torch.tensor(item.type_ids)
    return ids.to(device), type_ids.to(device), lengths.to(device)


@torch.inference_mode()
def predict(model: PairClassifier, items: list[Encoded], device: str, batch_size: int) -> Tensor:
    """Return logits (N, num_classes) on the CPU; the model is put in eval mode."""
    model.eval()
    order = sorted(range(len(items)), key=lambda i: len(items[i].ids))
    logits = torch.cat([model(*collate([items[i] for i in order[at : at + batch_size]], device)).float().cpu()
                        for at in range(0, len(order), batch_size)])
    restored = torch.empty_like(logits)
    restored[order] = logits
    return restored


def save_classifier(path: Path, model: PairClassifier, names: tuple[str, ...], num_layers: int) -> None:
    """Write a checkpoint that `load_classifier` rebuilds the model from; num_layers: those that are there."""
    config = {key: value for key, value in model.bert.config.to_dict().items()
              if isinstance(value, (str, int, float, bool))}
    content: dict[str, Any] = {"format": CHECKPOINT_FORMAT, "config": config, "labels": list(names),
                               "num_layers": num_layers, "model": model.state_dict()}
    with atomic_open(path, "wb") as file:
        torch.save(content, file)


def load_classifier(path: Path) -> tuple[PairClassifier, tuple[str, ...]]:
    """Return the model of a checkpoint in eval mode, removed layers and heads left out, and its classes."""
    content = load_tensors(path)
    if content.get("format") != CHECKPOINT_FORMAT or "labels" not in content:
        raise InputError(f"{path}: not a pair classifier of this version; train it again")
    model = PairClassifier(BertConfig(**content["config"]), len(content["labels"]))
    finetune.apply(model.bert, "first_layers", content["num_layers"])
    attention_heads.fit_heads(model, content["model"])
    model.load_state_dict(content["model"])
    return model.eval(), tuple(content["labels"])
