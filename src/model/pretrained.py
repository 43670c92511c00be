"""Weights of a wav2vec 2.0 or HuBERT model from a local path, in torchaudio's or in the Hugging Face layout.

Goes in: a file, or a folder as `save_pretrained` writes it (config.json next to model.safetensors or
pytorch_model.bin). Comes out: tensors under torchaudio's names, checked against the model that takes them. Everything
that does not fit raises ValueError, naming the file.
"""

import json
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from src.settings.weights import weights_files

NOT_USED = re.compile(  # what a checkpoint carries beside the encoder: heads, targets of pretraining, the mask
    r"^(masked_spec_embed|mask_generator\.|aux\.|lm_head\.|projector\.|classifier\.|layer_weights$|quantizer\.|"
    r"project_hid\.|project_q\.|logit_generator\.)")
RENAMED = {  # Hugging Face's beginning of a name -> torchaudio's
    "feature_projection.": "encoder.feature_projection.",
    "encoder.pos_conv_embed.": "encoder.transformer.pos_conv_embed.",
    "encoder.layer_norm.": "encoder.transformer.layer_norm.",
    "encoder.layers.": "encoder.transformer.layers.",
}
WRAPPERS = ("wav2vec2.", "hubert.")  # a model with a head holds the encoder under one of these names


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return {torchaudio's name: tensor} of a file or folder of weights; code in the file is refused, never run."""
    weights = weights_files(Path(path))[0]
    state = _read_safetensors(weights) if weights.suffix == ".safetensors" else _read_torch(weights)
    for wrapper in WRAPPERS:
        if any(key.startswith(wrapper) for key in state):
            state = {key.removeprefix(wrapper): value for key, value in state.items()}
    if any(key.startswith("feature_projection.") for key in state):
        state = {_rename(key): value for key, value in state.items()}
    return {key: value for key, value in state.items() if not NOT_USED.match(key)}


def _rename(key: str) -> str:
    for old, new in RENAMED.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(f"{path}: reading it needs the package safetensors (.venv/bin/python -m pip "
                         "install safetensors)") from error
    try:
        return load_file(path)
    except Exception as error:  # SafetensorError is no public name in every version
        raise ValueError(f"{path}: not a whole safetensors file ({error}); fetch it again") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for torn, foreign and unsafe files
        raise ValueError(f"{path}: not a file of tensors, or torn; refused. Fetch it again") from error
    if isinstance(state, dict) and {"format", "shape", "weights"} <= state.keys():
        raise ValueError(f"{path}: an encoder.pt of `python -m src pretrain`; the encoder 'wav2vec2' or "
                         "'wav2vec2_decoder' reads it")
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path}: not a state dict {{name: tensor}}; save model.state_dict()")
    return state


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Read weights into a torchaudio Wav2Vec2Model.

    Raises ValueError when a tensor is missing, left over or of another shape, or when the folder's config.json
    describes a model that computes something else from tensors of the same shapes.
    """
    _check_config(model, Path(path))
    state, own = read_weights(path), model.state_dict()
    if any(key.endswith(("weight_g", "weight_v")) for key in state):  # the positional convolution before torch 2
        state = {re.sub("weight_g$", "parametrizations.weight.original0",
                        re.sub("weight_v$", "parametrizations.weight.original1", key)): value
                 for key, value in state.items()}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shaped = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or extra or shaped:
        said = [f"{len(keys)} tensors {what}, such as {keys[0]}" for keys, what in (
            (missing, "are missing"), (extra, "are unknown")) if keys]
        if shaped:
            key = min(shaped)
            said.append(f"{len(shaped)} have another shape, such as {key}: {tuple(state[key].shape)}, not "
                        f"{tuple(own[key].shape)}")
        raise ValueError(f"{path}: not the weights of this size of encoder: {'; '.join(said)}")
    model.load_state_dict(state)


def _check_config(model: nn.Module, path: Path) -> None:
    config_path = path / "config.json"
    if not config_path.is_file():
        return
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{config_path}: not JSON ({error}); fetch it again") from error
    layers, blocks = model.encoder.transformer.layers, model.feature_extractor.conv_layers
    expected = {
        "num_attention_heads": layers[0].attention.num_heads,
        "conv_stride": [block.stride for block in blocks],
        "do_stable_layer_norm": layers[0].layer_norm_first,
        "feat_extract_norm": "group",
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
    }
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise ValueError(f"{config_path}: {key} is {config[key]!r}, this encoder has {value!r}")
