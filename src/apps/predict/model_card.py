"""What must be known of a model to use it on new recordings: what it takes, whom it knows, how sure it may be.

Made of a finished run by fold_models, written into an ONNX file by export, read from there by onnx_model. No torch.
"""

from dataclasses import asdict, dataclass
from typing import Any

VERSION = 1


@dataclass(frozen=True)
class ModelCard:
    """A model's inputs, speakers and calibration.

    name: the run's. speakers: the classes by index. takes_audio: whether it answers audio; sample_rate (Hz) and
    peak_db say how a recording is brought into shape for it. dim: values a frame where it answers files of frames too,
    else 0; frame_rate: frames a second, 0 where unknown. temperature: of the calibration, fitted on num_calibrated
    out-of-fold utterances (0: not fitted). open_set: what open_set.json holds, None where nothing was measured.
    """

    name: str
    speakers: tuple[str, ...]
    num_folds: int
    takes_audio: bool
    sample_rate: int
    peak_db: float
    dim: int
    frame_rate: float
    temperature: float
    num_calibrated: int
    open_set: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """Return the card as plain values."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "ModelCard":
        """Return the card that `to_json` wrote; raises ValueError, KeyError or TypeError for another version's."""
        content = dict(content)
        if content.pop("version") != VERSION:
            raise ValueError("a model card of another version")
        return cls(**{**content, "speakers": tuple(content["speakers"])})

    def calibration(self) -> str:
        """Say in one sentence what the probabilities rest on."""
        if not self.num_calibrated:
            return "probabilities are not calibrated: no out-of-fold utterance tells how sure the model may be"
        return (f"probabilities calibrated on {self.num_calibrated:,} out-of-fold utterances "
                f"(temperature {self.temperature:.3g})")
