"""How much of a Transformer encoder learns: five regimes over any stack of attention layers.

Goes in: an encoder of this project, torchaudio's Wav2Vec2Model or transformers' BertModel, as a part or inside one.
Comes out: the same encoder, changed in place: parameters that no longer learn, or layers and heads that are no longer
there, so that what is saved is smaller. Nothing is drawn at random: every regime starts from the same weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.config import REGIMES
from src.errors import SettingError

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
    elif {"query", "key", "value", "output"} <= children.keys():  # src.encoders.lab
        counter, output, counters = module, module.output, ("num_heads",)
        inputs = [module.query, module.key, module.value]
    elif bert is not None and hasattr(bert, "num_attention_heads"):  # transformers' BertAttention
        counter, output, counters = bert, module.output.dense, ("num_attention_heads", "all_head_size")
        inputs = [bert.query, bert.key, bert.value]
    elif {"query_proj", "memory_proj", "out_proj"} <= children.keys():  # cross-attention of src.encoders.wav2vec2
        counter, output, counters = module, module.out_proj, ("num_heads",)
        inputs = [module.query_proj, *[module.memory_proj] * 2]
    elif hasattr(module, "in_proj_weight") and not isinstance(module, nn.MultiheadAttention):  # src.encoders.layers
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


def apply(encoder: nn.Module, regime: str, layers: int = 0, heads: Iterable[Head] = (), remove: int = 0) -> None:
    """Put an encoder under one of the five regimes; what lies outside it (pooling, head) always learns.

    full: everything learns. freeze_first: the first `layers` layers, and what is registered before them (convolutions
    on samples, embeddings), do not (Lee et al., 2019); with 0 the latter alone.
    embedding_and_last: of the layers only the last learns, and so does all that is no layer. first_layers: only the
    first `layers` layers are there at all. remove_heads: `heads`, (layer, head) from 0, are taken out (Michel et al.,
    2019); `remove` in their place says that this many are to go by `head_importance.remove_least_important`, which
    needs data, and leaves all of them here. Raises SettingError for what the encoder does not have and for settings
    that the regime does not use.
    """
    if regime not in REGIMES:
        raise SettingError(f"finetune.regime: '{regime}' is none of {', '.join(REGIMES)}")
    heads = tuple(heads)
    if (heads or remove) and regime != "remove_heads":
        raise SettingError(f"finetune.{'heads' if heads else 'remove'}: regime '{regime}' removes none; set "
                           "finetune.regime=remove_heads")
    if heads and remove:
        raise SettingError("finetune.heads and finetune.remove: give the heads or how many, not both")
    if regime == "freeze_first":
        _freeze_first(encoder, _within(encoder, layers, 0))
    elif regime == "embedding_and_last":
        for layer in layers_of(encoder)[:-1]:
            freeze(layer)
    elif regime == "first_layers":
        stacks = stacks_of(encoder)
        if len(stacks) > 1:
            raise SettingError(f"finetune.regime: first_layers cuts one stack; {type(encoder).__name__} has "
                               f"{len(stacks)}, and the later ones need the first whole")
        del stacks[0][_within(encoder, layers, 1):]
    elif regime == "remove_heads" and not remove:
        remove_heads(encoder, heads)


def _within(encoder: nn.Module, layers: int, fewest: int) -> int:
    count = len(layers_of(encoder))
    if not fewest <= layers <= count:
        raise SettingError(f"finetune.layers: {layers}, but the encoder has {count}; give {fewest} to {count}")
    return layers


def freeze(module: nn.Module) -> None:
    """Let a module's parameters learn no more; its batch norms use and keep the statistics that they have."""
    module.requires_grad_(False)
    for item in module.modules():
        if isinstance(item, _BatchNorm):
            item.register_forward_pre_hook(_keep_statistics)


def _keep_statistics(norm: nn.Module, inputs: tuple) -> None:
    norm.eval()


def _freeze_first(encoder: nn.Module, num_layers: int) -> None:
    layers = layers_of(encoder)
    for layer in layers[:num_layers]:
        freeze(layer)
    first = next(iter(layers[max(0, num_layers - 1)].parameters()))  # of several stacks: a norm between them too
    for parameter in encoder.parameters():  # in the order of registration
        if parameter is first:
            break
        parameter.requires_grad_(False)


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


def count(module: nn.Module) -> tuple[int, int]:
    """Return the number of parameters that learn and of all."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes)


def describe(module: nn.Module, regime: str) -> str:
    """Return the line that a run prints of its regime."""
    learning, total = count(module)
    return f"finetune {regime}: {learning:,} of {total:,} parameters learn"
