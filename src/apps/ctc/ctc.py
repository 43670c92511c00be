"""Characters instead of speakers: target, loss, metric and greedy decoding of CTC, and the model it trains.

Connectionist temporal classification (Graves et al., 2006) sums over all ways in which a text may lie along the frames,
with a blank between; so a transcript without times is enough.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.functional import edit_distance

from src.base.errors import InputError
from src.base.files import atomic_open
from src.base.torch_files import load_tensors
from src.model import attention_heads, finetune
from src.model.checkpoint import without_start
from src.settings.config import Experiment, from_json, to_json
from src.settings.parts import build

BLANK = 0
CHECKPOINT_FORMAT = 1


class CTC:
    """One text an utterance, one token a character.

    tokens: the vocabulary; class 0 is the blank, tokens[i] class i + 1.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tuple(tokens)
        self.num_classes = len(self.tokens) + 1
        self.classes = {token: i + 1 for i, token in enumerate(self.tokens)}

    @classmethod
    def of(cls, texts: Iterable[str]) -> "CTC":
        """Return the task whose vocabulary is every character of `texts`, which are those of the training part."""
        return cls(sorted(set("".join(texts))))

    def targets(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the classes of all texts one after the other (sum of lengths,), and each text's length (B,).

        A character that is not in the vocabulary is left out; the metric still counts it.
        """
        encoded = [[self.classes[token] for token in text if token in self.classes] for text in texts]
        return (torch.tensor([number for item in encoded for number in item], dtype=torch.long),
                torch.tensor([len(item) for item in encoded]))

    def losses(self, logits: Tensor, lengths: Tensor | None, texts: Sequence[str]) -> Tensor:
        """Return -log p(text) (B,) in nats a token of logits (B, T, num_classes), in float32.

        lengths: (B,) valid frames. A text longer than its frames allow adds no loss.
        """
        targets, target_lengths = self.targets(texts)
        if lengths is None:
            lengths = torch.full((len(logits),), logits.shape[1])
        log_probs = F.log_softmax(logits.float(), 2).transpose(0, 1)
        losses = F.ctc_loss(log_probs, targets.to(logits.device), lengths.to(logits.device),
                            target_lengths.to(logits.device), blank=BLANK, reduction="none", zero_infinity=True)
        return losses / target_lengths.clamp_min(1).to(losses)

    def decode(self, logits: Tensor, lengths: Tensor | None) -> list[str]:
        """Return the texts of logits (B, T, num_classes), greedily: best class a frame, repeats merged, blanks out."""
        best = logits.argmax(2).cpu()
        ends = [best.shape[1]] * len(best) if lengths is None else lengths.tolist()
        merged = [torch.unique_consecutive(row[:end]).tolist() for row, end in zip(best, ends)]
        return ["".join(self.tokens[number - 1] for number in row if number != BLANK) for row in merged]

    @staticmethod
    def errors(decoded: Sequence[str], texts: Sequence[str]) -> tuple[int, int]:
        """Return (errors, tokens): insertions, deletions and replacements over all texts, and their characters."""
        return sum(edit_distance(text, guess) for guess, text in zip(decoded, texts)), sum(map(len, texts))


class CTCModel(nn.Module):
    """An encoder and one linear layer to the classes of every frame."""

    def __init__(self, experiment: Experiment, num_classes: int) -> None:
        super().__init__()
        self.encoder = build("encoder", experiment.encoder, 0)
        finetune.apply(self.encoder, **vars(experiment.finetune))
        self.output = nn.Linear(self.encoder.output_dim, num_classes)

    def forward(self, waveform: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return logits (B, T, num_classes) of waveforms (B, N), and how many frames of each are valid."""
        frames, lengths = self.encoder(waveform, lengths)
        return self.output(frames), lengths

    def from_features(self, features: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return what forward does, of what a wav2vec 2.0 encoder's feature encoder made (B, T, channels)."""
        frames, lengths = self.encoder.context(self.encoder.project(features), lengths)
        return self.output(frames), lengths


def save_model(path: Path, model: CTCModel, experiment: Experiment, task: CTC) -> None:
    """Write a checkpoint that `load_model` rebuilds the model from, atomically."""
    content: dict[str, Any] = {"format": CHECKPOINT_FORMAT, "task": "ctc", "experiment": to_json(experiment),
                               "tokens": list(task.tokens), "model": model.state_dict()}
    with atomic_open(path, "wb") as file:
        torch.save(content, file)


def load_model(path: Path) -> tuple[CTCModel, CTC]:
    """Return the model of a checkpoint in eval mode and its task; raises InputError for a file that is no such model.

    The file that the encoder once started from is not needed.
    """
    content = load_tensors(path)
    if content.get("format") != CHECKPOINT_FORMAT or content.get("task") != "ctc":
        raise InputError(f"{path}: not a CTC model of this version; train it again")
    task = CTC(content["tokens"])
    model = CTCModel(without_start(from_json(content["experiment"])), task.num_classes)
    attention_heads.fit_heads(model, content["model"])
    model.load_state_dict(content["model"])
    return model.eval(), task
