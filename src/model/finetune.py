"""How much of a Transformer encoder learns: five regimes over any stack of attention layers.

Goes in: an encoder of this project, torchaudio's Wav2Vec2Model or transformers' BertModel, as a part or inside one.
Comes out: the same encoder, changed in place: parameters that no longer learn, or layers and heads that are no longer
there, so that what is saved is smaller. Nothing is drawn at random: every regime starts from the same weights.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.base.errors import SettingError
from src.model.attention_heads import Head, layers_of, remove_heads, stacks_of
from src.settings.config import REGIMES


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


def count(module: nn.Module) -> tuple[int, int]:
    """Return the number of parameters that learn and of all."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes)


def describe(module: nn.Module, regime: str) -> str:
    """Return the line that a run prints of its regime."""
    learning, total = count(module)
    return f"finetune {regime}: {learning:,} of {total:,} parameters learn"
