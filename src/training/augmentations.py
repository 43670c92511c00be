"""The augmentations of an experiment, in the order in which a batch goes through them."""

from collections.abc import Sequence

from torch import Generator, Tensor

from src.augment.base import Augmentation, check_kinds
from src.augment.speed import SpeedCopies
from src.settings.config import Part
from src.settings.parts import build


class Augmentations:
    """Those that act on waveforms, before the front end, and those that act on frames, after it.

    kind: what the store holds. speed_classes: whether a copy of an utterance at another speed is of a class of its own,
    the label and a multiple of num_speakers. Raises SettingError for an augmentation that does not fit the kind.
    """

    def __init__(self, parts: Sequence[Part], kind: str, num_speakers: int, speed_classes: bool) -> None:
        every = [build("augment", item) for item in parts]
        self.num_speakers = num_speakers
        self.of_waveforms = [one for one in every if "waveform" in one.kinds]
        self.of_frames = [one for one in every if "waveform" not in one.kinds]
        check_kinds(self.of_waveforms, kind)
        check_kinds(self.of_frames, "logmel" if kind == "waveform" else kind)
        speeds = [one for one in every if isinstance(one, SpeedCopies)]
        self.speed = speeds[0] if speed_classes else None  # the one whose copies are classes
        self.num_copies = len(self.speed.factors) if self.speed else 1
        self.waits = any(one.waits for one in every)

    def on_waveforms(self, inputs: Tensor, lengths: Tensor | None, labels: Tensor,
                     generator: Generator) -> tuple[Tensor, Tensor]:
        """Return what the front end takes, (B, N) or, from a store of frames, (B, T, F), and labels (B,)."""
        return self._apply(self.of_waveforms, inputs, lengths, labels, generator)

    def on_frames(self, frames: Tensor, lengths: Tensor | None, labels: Tensor,
                  generator: Generator) -> tuple[Tensor, Tensor]:
        """Return what the encoder takes, (B, T, F) or, where it takes waveforms, (B, N), and labels (B,)."""
        return self._apply(self.of_frames, frames, lengths, labels, generator)

    def _apply(self, augmentations: list[Augmentation], inputs: Tensor, lengths: Tensor | None, labels: Tensor,
               generator: Generator) -> tuple[Tensor, Tensor]:
        for augmentation in augmentations:
            if augmentation is self.speed:
                copies = augmentation.draw(len(labels), generator)
                inputs, labels = augmentation.apply(inputs, lengths, copies), labels + copies * self.num_speakers
            else:
                inputs, _ = augmentation(inputs, lengths, generator)
        return inputs, labels
