"""The ledger row of a regime."""

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from src.apps.bert_nli.plan import PairPlan, shape, study_of
from src.apps.bert_nli.study import SIZES, Study
from src.base.files import read_json
from src.base.git import commit
from src.base.text import timestamp


def row_of(plan: PairPlan, options: argparse.Namespace, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ledger row of a regime, which is a change of the full one; result: what the run says of itself."""
    study, base = plan.study, study_of(options, "full")
    differing = {key: (old, new) for (key, old), new in zip(asdict(base).items(), asdict(study).values()) if old != new}
    width, layers, heads, _ = SIZES[study.size]
    if options.weights:
        layers, heads = shape(options)
        width = read_json(options.weights / "config.json")["hidden_size"]
    return {
        "date": result.get("finished") or timestamp(), "source": "ours", "stage": "train",
        "competition": plan.run.competition, "run_id": plan.run.run_id, "experiment": study.name,
        "parent": "" if study.regime == "full" else "bert_nli",
        "changed": "; ".join(f"finetune.{key}: {old} → {new}" for key, (old, new) in differing.items()),
        "encoder": "bert", "d_model": width, "layers": layers, "heads": heads, "pooling": "cls", "head": "linear",
        "batch_size": study.batch_size, "lr": study.lr, "folds": 1, "seeds": study.seed, "metric": "accuracy",
        "device": study.device, "status": "ok", "commit": commit(), "digest": plan.digest, "group": plan.group(study),
        "parent_group": "" if study.regime == "full" else plan.group(base), "command": _command(options, study.regime),
        "note": _note(result) if "learning" in result else "",
        **{key: result[key] for key in ("params", "steps", "train", "valid", "seconds", "status", "note")
           if key in result}}


def _note(result: Mapping[str, Any]) -> str:
    peak = f"; peak {result['peak_mb']:.0f} MB" if result["peak_mb"] else ""
    return f"{result['learning']:,} parameters learn; {result['epoch_s']:.1f} s an epoch{peak}"


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
