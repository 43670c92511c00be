"""The attention heads of a Transformer encoder: found, measured and removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from src.base.errors import SettingError

Head = tuple[int, int]  # layer and head, from 0


@dataclass(frozen=True)
class Attention:
    """The heads of one attention module: the tensors that hold them, and who counts them.

    inputs: (module, names of its weight and bias, projections in them) whose rows belong to heads. output: the Linear
    whose columns do. counters: attributes of `counter` that hold the heads, or the heads times their size.
    """

    inputs: tuple[tuple[nn.Module, tuple[str, str], int], ...]
    output: nn.Linear
    counter: nn.Module
    counters: tuple[str, ...]

    @property
    def num_heads(self) -> int:
        """Heads that are there now."""
        return getattr(self.counter, self.counters[0])

    @property
    def head_dim(self) -> int:
        """Size of a head."""
        return self.output.weight.shape[1] // self.num_heads

    def keep(self, heads: list[int]) -> None:
        """Leave only these heads, as tensors of their own."""
        old = self.num_heads * self.head_dim
        columns = (torch.tensor(heads)[:, None] * self.head_dim + torch.arange(self.head_dim)).flatten()
        for module, names, count in self.inputs:
            rows = torch.cat([columns + old * i for i in range(count)])
            for name in names:
                _select(module, name, rows, 0)
            if isinstance(module, nn.Linear):
                module.out_features = len(rows)
        _select(self.output, "weight", columns, 1)
        self.output.in_features = len(columns)
        for name, value in zip(self.counters, (len(heads), len(columns))):
            setattr(self.counter, name, value)


def _select(module: nn.Module, name: str, index: Tensor, dim: int) -> None:
    old = getattr(module, name)
    if old is not None:
        kept = old.detach().index_select(dim, index.to(old.device))
        setattr(module, name, nn.Parameter(kept, requires_grad=old.requires_grad))


def _attention_of(module: nn.Module) -> Attention | None:
    """Return the heads of a module that is an attention by one of the layouts known here, else None."""
    children = dict(module.named_children())
    bert = children.get("self")
    if {"q_proj", "k_proj", "v_proj", "out_proj"} <= children.keys():  # torchaudio
        counter, output, counters = module, module.out_proj, ("num_heads",)
        inputs = [module.q_proj, module.k_proj, module.v_proj]
    elif {"query", "key", "value", "output"} <= children.keys():  # src.model.encoders.lab
        counter, output, counters = module, module.output, ("num_heads",)
        inputs = [module.query, module.key, module.value]
    elif bert is not None and hasattr(bert, "num_attention_heads"):  # transformers' BertAttention
        counter, output, counters = bert, module.output.dense, ("num_attention_heads", "all_head_size")
        inputs = [bert.query, bert.key, bert.value]
    elif {"query_proj", "memory_proj", "out_proj"} <= children.keys():  # cross-attention of src.model.encoders.wav2vec2
        counter, output, counters = module, module.out_proj, ("num_heads",)
        inputs = [module.query_proj, *[module.memory_proj] * 2]
    elif hasattr(module, "in_proj_weight") and not isinstance(module, nn.MultiheadAttention):  # src.model.layers
        fused = (module, ("in_proj_weight", "in_proj_bias"), 3)
        return Attention((fused,), module.out_proj, module, ("num_heads",))
    else:
        return None
    held = tuple((item, ("weight", "bias"), inputs.count(item)) for item in dict.fromkeys(inputs))
    return Attention(held, output, counter, counters)


def attentions_of(module: nn.Module) -> list[Attention]:
    """Return the attentions within a module, in order."""
    return [found for item in module.modules() if (found := _attention_of(item))]


def stacks_of(encoder: nn.Module) -> list[nn.ModuleList]:
    """Return the stacks of attention layers in an encoder, outermost, in order; raises SettingError for none."""
    found: list[nn.ModuleList] = []

    def visit(module: nn.Module) -> None:
        if isinstance(module, nn.ModuleList) and len(module) and all(attentions_of(layer) for layer in module):
            found.append(module)
            return
        for child in module.children():
            visit(child)

    visit(encoder)
    if not found:
        raise SettingError(f"finetune: {type(encoder).__name__} has no attention layers; use finetune.regime=full, or "
                           "a Transformer, Conformer, HuBERT or wav2vec 2.0 encoder")
    return found


def layers_of(encoder: nn.Module) -> list[nn.Module]:
    """Return the attention layers of an encoder, first to last, over all its stacks."""
    return [layer for stack in stacks_of(encoder) for layer in stack]


def heads_of(encoder: nn.Module) -> list[list[tuple[Attention, int]]]:
    """Return each layer's heads as (attention, its own index of the head); cross-attention's follow the layer's own."""
    return [[(attention, head) for attention in attentions_of(layer) for head in range(attention.num_heads)]
            for layer in layers_of(encoder)]


def remove_heads(encoder: nn.Module, heads: Iterable[Head]) -> None:
    """Take heads, (layer, head) from 0, out of an encoder; the tensors of the others stay as they are.

    Raises SettingError for none, for one that is not there, and for the last of an attention.
    """
    removed, every = set(map(tuple, heads)), heads_of(encoder)
    if not removed:
        raise SettingError("finetune.heads: remove_heads was given none; list them, as in finetune.heads=[(0,1),(1,3)],"
                           " or set finetune.remove to a number of least important ones")
    for layer, head in sorted(removed):
        if not (0 <= layer < len(every) and 0 <= head < len(every[layer])):
            raise SettingError(f"finetune.heads: no head {head} in layer {layer}; the encoder has {len(every)} layers "
                               f"of {', '.join(str(len(row)) for row in every)} heads")
    plan = []
    for number, layer in enumerate(layers_of(encoder)):
        offset = 0
        for attention in attentions_of(layer):
            kept = [i for i in range(attention.num_heads) if (number, offset + i) not in removed]
            offset += attention.num_heads
            if not kept:
                raise SettingError(f"finetune.heads: layer {number} would keep no head; leave it one, or use "
                                   "finetune.regime=first_layers")
            plan.append((attention, kept))
    for attention, kept in plan:
        if len(kept) < attention.num_heads:
            attention.keep(kept)


def fit_heads(encoder: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Leave each attention as many heads as a state dict of the encoder holds, so that it can be loaded."""
    names = {module: name for name, module in encoder.named_modules()}
    for attention in attentions_of(encoder):
        saved = state.get(f"{names[attention.output]}.weight")
        if saved is not None and saved.shape[1] < attention.output.weight.shape[1]:
            attention.keep(list(range(saved.shape[1] // attention.head_dim)))


Batch = TypeVar("Batch")


def measure(encoder: nn.Module, batches: Iterable[Batch], loss_of: Callable[[Batch], Tensor]) -> np.ndarray:
    """Return the importance (layers, heads) of an encoder's heads; NaN fills rows of fewer heads.

    loss_of(batch) runs the model that the encoder is part of and returns losses, (B,) or their mean. Each head's
    output is multiplied by a gate of one; its importance is the mean over examples of the loss's absolute slope in
    the gate, the layer's scores then divided by their Euclidean norm (Michel et al., 2019). No gradient is left in
    the parameters. Put the model in eval mode first, so that dropout does not blur the scores.
    """
    every = heads_of(encoder)
    attentions = list(dict.fromkeys(attention for row in every for attention, _ in row))
    gates: dict[int, Tensor] = {}

    def gated(index: int) -> Callable[[nn.Module, tuple], tuple]:
        def hook(module: nn.Module, inputs: tuple) -> tuple:
            num_heads = attentions[index].num_heads
            gates[index] = torch.ones(len(inputs[0]), 1, num_heads, 1, device=inputs[0].device, requires_grad=True)
            return ((inputs[0].unflatten(2, (num_heads, -1)) * gates[index]).flatten(2),)
        return hook

    hooks = [attention.output.register_forward_pre_hook(gated(i)) for i, attention in enumerate(attentions)]
    total, num_examples = [0.0] * len(attentions), 0
    try:
        for batch in batches:
            with torch.enable_grad():
                slopes = torch.autograd.grad(loss_of(batch).sum(), [gates[i] for i in range(len(attentions))])
            num_examples += len(slopes[0])
            total = [old + slope.abs().sum(0).flatten().double().cpu() for old, slope in zip(total, slopes)]
    finally:
        for hook in hooks:
            hook.remove()
    if not num_examples:
        raise SettingError("head importance: there is no batch to measure it on")
    mean = {attention: score / num_examples for attention, score in zip(attentions, total)}
    importance = np.full((len(every), max(map(len, every))), np.nan)
    for layer, row in enumerate(every):
        scores = np.array([mean[attention][head].item() for attention, head in row])
        importance[layer, : len(row)] = scores / max(np.linalg.norm(scores), 1e-12)
    return importance


def least_important(importance: np.ndarray, num_heads: int) -> tuple[tuple[int, int], ...]:
    """Return the `num_heads` heads, (layer, head), of the smallest importance, each layer keeping its best one.

    Raises SettingError when there are not so many to remove.
    """
    can_go = np.isfinite(importance)
    can_go[np.arange(len(importance)), np.nanargmax(importance, 1)] = False
    if not 1 <= num_heads <= can_go.sum():
        raise SettingError(f"finetune.remove: {num_heads}, but 1 to {can_go.sum()} heads can go when each layer keeps "
                           "one")
    order = np.argsort(np.where(can_go, importance, np.inf), axis=None, kind="stable")[:num_heads]
    return tuple(sorted((int(i // importance.shape[1]), int(i % importance.shape[1])) for i in order))
