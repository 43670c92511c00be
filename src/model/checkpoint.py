"""model.pt: one fold's speaker model with the settings that rebuild it."""

import json
from pathlib import Path

import torch

from src.base.errors import InputError, SettingError
from src.base.files import atomic_open
from src.base.torch_files import load_tensors
from src.model import attention_heads
from src.model.classical.model import ClassicalModel
from src.model.speaker_model import SpeakerModel
from src.settings.config import Experiment, from_json, override, to_json
from src.settings.parts import lookup

CHECKPOINT_FORMAT = 1


def save_model(path: Path, model: SpeakerModel | ClassicalModel, experiment: Experiment, kind: str, input_dim: int,
               speakers: tuple[str, ...]) -> None:
    """Write a checkpoint that `load_model` rebuilds the model from, atomically."""
    content = {"format": CHECKPOINT_FORMAT, "experiment": to_json(experiment), "kind": kind, "input_dim": input_dim,
               "speakers": list(speakers), "num_copies": model.num_copies}
    # New strings: a pickle's bytes tell which equal ones are one object, which differs from process to process.
    content = json.loads(json.dumps(content)) | {"model": model.state_dict()}
    with atomic_open(path, "wb") as file:
        torch.save(content, file)


def load_model(path: Path, device: str = "cpu") -> tuple[SpeakerModel | ClassicalModel, Experiment, tuple[str, ...]]:
    """Return the model of a checkpoint in eval mode, its experiment and its speakers.

    Raises InputError for a file that is no checkpoint of this project or that carries anything but plain values.
    """
    content = load_tensors(path)
    if content.get("format") != CHECKPOINT_FORMAT:
        raise InputError(f"{path}: not a model of this version; train it again")
    try:
        experiment, speakers = from_json(content["experiment"]), tuple(content["speakers"])
        if lookup("encoder", experiment.encoder.name).takes == "utterances":
            model = ClassicalModel(experiment, content["kind"], len(speakers))
        else:
            model = SpeakerModel(without_start(experiment), content["kind"], content["input_dim"], len(speakers),
                                 content["num_copies"])
            attention_heads.fit_heads(model, content["model"])
        model.load_state_dict(content["model"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, SettingError) as error:
        raise InputError(f"{path}: its settings and weights do not fit this version ({type(error).__name__}: {error}); "
                         "train it again") from error
    return model.to(device).eval(), experiment, speakers


def without_start(experiment: Experiment) -> Experiment:
    """Return the experiment without the weights that its encoder once started from; a checkpoint needs them no more."""
    none = {"weights": "", "download": False}
    return override(experiment, {f"encoder.{key}": value for key, value in none.items()
                                 if experiment.encoder.kwargs.get(key)})
