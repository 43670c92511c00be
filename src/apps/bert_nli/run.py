"""One regime of `python -m src bert_nli`: a study and its pairs in; model, tokeniser, report and result out.

Trains with the loop that all training shares and leaves model.pt, tokenizer.json, report.txt and log.csv in the run's
folder. What was stopped goes on.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from src.apps.bert_nli.classifier import PairClassifier, collate, load_bert, make_config, predict, save_classifier
from src.apps.bert_nli.pairs import Pair, hold_out, label_indices, label_names, read_pairs
from src.apps.bert_nli.plan import PairPlan
from src.apps.bert_nli.report import report
from src.apps.bert_nli.tokenizer import Encoded, encode, load_tokenizer, train_tokenizer
from src.apps.task import train_once
from src.base.files import atomic_open
from src.base.machine import peak_mb, reset_peak
from src.base.text import timestamp
from src.model import attention_heads, finetune
from src.runs.logits import accuracy, cross_entropy
from src.settings.config import Optim
from src.training.head_removal import remove_least_important
from src.training.loop import Loop, step_seed

MEASURED_BATCHES = 16  # batches of training pairs on which the heads are measured


def run_regime(plan: PairPlan) -> dict[str, Any]:
    """Train one regime, unless that is done, and return its result. Raises DivergedError for a loss not finite."""
    return train_once(plan.run, lambda: PairRun(plan).run())


class PairRun:
    """One regime: what the loop needs to know of pairs and model."""

    def __init__(self, plan: PairPlan) -> None:
        self.study = study = plan.study
        self.folder, self.directory, self.device = plan.run.whole, plan.run.directory, study.device
        torch.set_num_threads(study.threads)
        whole = read_pairs(plan.pairs)
        learnt, held_out = (whole, read_pairs(plan.valid)) if plan.valid else hold_out(whole)
        self.names = label_names(learnt)
        self.labels = {"train": label_indices(learnt, self.names), "valid": label_indices(held_out, self.names)}
        self.items = self._encode(learnt, held_out, plan.vocab)
        self.steps_per_epoch = -(-len(learnt) // study.batch_size)
        torch.manual_seed(step_seed(study.seed, 0, -1))
        config = make_config(study.size, self.vocab_size, study.max_length, plan.weights)
        self.model = PairClassifier(config, len(self.names))
        if plan.weights:
            load_bert(self.model, plan.weights)
        self.model.to(self.device)
        finetune.apply(self.model.bert, study.regime, study.layers, study.heads, study.remove)
        if study.remove:
            remove_least_important(self.model.eval(), study.remove, self.directory,
                                   range(min(MEASURED_BATCHES, self.steps_per_epoch)), self._losses)
        print(finetune.describe(self.model, study.regime))
        self.learning, self.total = finetune.count(self.model)

    def _encode(self, train: list[Pair], valid: list[Pair], vocab: Path | None) -> dict[str, list[Encoded]]:
        """Return token ids; the tokeniser is kept in the run's folder, from which a resumed run takes it."""
        kept, size = self.directory / "tokenizer.json", self.study.max_length
        if kept.exists():
            tokenizer = load_tokenizer(kept, size)
        else:
            tokenizer = load_tokenizer(vocab, size) if vocab else train_tokenizer(train, self.study.vocab_size, size)
            with atomic_open(kept) as file:
                file.write(tokenizer.to_str())
        self.vocab_size = tokenizer.get_vocab_size()
        return {"train": encode(tokenizer, train), "valid": encode(tokenizer, valid)}

    def run(self) -> dict[str, Any]:
        """Fit, then save model and report, and return the result."""
        study, steps = self.study, self.steps_per_epoch * self.study.epochs
        reset_peak(self.device)
        loop = Loop(
            model=self.model, optim=Optim(lr=study.lr, warmup_steps=steps // 10, grad_clip=1.0), steps=steps,
            loss_of=self._loss_of, directory=self.directory, seed=study.seed, device=self.device,
            validate=self._validate, valid_every=self.steps_per_epoch, select="best",
            description=f"{study.name} on {self.directory.parent.name}")
        progress = loop.run()
        most_mb = peak_mb()
        train, valid = ((self._logits(part).argmax(1) == self.labels[part]).mean().item() for part in self.items)
        text = report(self.labels["valid"], self._logits("valid").argmax(1), self.names)
        with atomic_open(self.directory / "report.txt") as file:
            file.write(text)
        print(text)
        save_classifier(self.folder.model_path, self.model, self.names, len(attention_heads.layers_of(self.model.bert)))
        return {"regime": study.regime, "learning": self.learning, "params": self.total, "steps": steps,
                "train": train, "valid": valid, "best_step": progress.best_step, "seconds": progress.seconds,
                "epoch_s": progress.seconds / study.epochs, "peak_mb": most_mb,
                "file_mb": self.folder.model_path.stat().st_size / 1e6, "device": self.device, "finished": timestamp()}

    def _rows(self, step: int) -> np.ndarray:
        """Return the training pairs of a step: every epoch each pair once, in an order of its own."""
        epoch, at = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.study.seed, epoch]).permutation(len(self.items["train"]))
        return order[at * self.study.batch_size : (at + 1) * self.study.batch_size]

    def _logits_of(self, step: int) -> tuple[Tensor, Tensor]:
        rows = self._rows(step)
        labels = torch.from_numpy(self.labels["train"][rows]).to(self.device)
        return self.model(*collate([self.items["train"][row] for row in rows], self.device)), labels

    def _losses(self, step: int) -> Tensor:
        logits, labels = self._logits_of(step)
        return F.cross_entropy(logits, labels, reduction="none")

    def _loss_of(self, step: int) -> dict[str, Tensor]:
        logits, labels = self._logits_of(step)
        return {"loss": F.cross_entropy(logits, labels), "accuracy": (logits.argmax(1) == labels).float().mean()}

    def _logits(self, part: str) -> np.ndarray:
        return predict(self.model, self.items[part], self.device, self.study.batch_size).numpy()

    def _validate(self, step: int) -> dict[str, float]:
        logits = self._logits("valid")
        return {"valid_metric": accuracy(logits, self.labels["valid"]),
                "valid_loss": cross_entropy(logits, self.labels["valid"])}
