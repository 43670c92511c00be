"""encoder.pt: what pretraining leaves and training starts from, known by its content.

Imports no torch, so that a finished run is recognised at once; the encoder itself reads the file.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.encoders.pretrained import weights_digest
from src.errors import InputError
from src.files import atomic_open

if TYPE_CHECKING:
    from src.encoders.wav2vec2 import Wav2Vec2


def save_encoder(path: Path, encoder: "Wav2Vec2") -> None:
    """Write an encoder's weights and shape atomically, as src.encoders.wav2vec2.load_weights reads them."""
    import torch

    from src.encoders.wav2vec2 import WEIGHTS_FORMAT

    weights = {key: value.cpu() for key, value in encoder.state_dict().items()}
    with atomic_open(path, "wb") as file:
        torch.save({"format": WEIGHTS_FORMAT, "shape": encoder.shape, "weights": weights}, file)


def hash_weights(settings: dict[str, Any]) -> dict[str, Any]:
    """Return an experiment's essential settings with the path in encoder.weights replaced by its content's digest.

    So a run is named by what it started from, wherever that lies. Raises InputError for a path that is not there.
    """
    weights = settings["encoder"].get("weights")
    if not weights:
        return settings
    try:
        content = weights_digest(weights)
    except (OSError, ValueError) as error:
        raise InputError(f"encoder.weights: {error}; give the path of an encoder.pt that `python -m src pretrain` "
                         "left, or of a pretrained model") from error
    return {**settings, "encoder": {**settings["encoder"], "weights": content}}
