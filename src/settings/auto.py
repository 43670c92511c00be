"""From an experiment to what is trained: every "auto" filled in by stated rules from the data and the machine.

Runs before the digest is taken, so that a run's name says exactly what was done. Imports no torch: a stage with
nothing to do must find that out at once.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from src.base import distributed
from src.base.errors import SettingError
from src.base.machine import has_gpu, memory_gb, multiplies_bfloat16, usable_cpus
from src.settings.config import Experiment, flatten, override, part
from src.settings.parts import complete_experiment, lookup

AUTO_AUGMENT = {  # another session of the same speaker, as far as the kind of feature lets it be imitated
    "logmel": (part("session"), part("spec_augment", freq_masks=1, freq_width=6, time_masks=1, prob=0.5)),
    "cepstra": (part("jitter", std=0.1),),
    "waveform": (part("waveform_session"),),
}
# Where speech is scarce a small encoder at every frame is as right and quicker; by minutes of training speech.
LITTLE_SPEECH = 60_000  # frames
AUTO_ENCODER = {True: part("ecapa_tdnn", channels=64, aggregate_dim=192, se_dim=32),
                False: part("ecapa_tdnn", channels=256, aggregate_dim=768, se_dim=64, stride=2)}
AUTO_EMBEDDING_DIM = {True: 96, False: 192}
# Much speech in fewer steps and folds where each takes long: on few processors that do not multiply bfloat16.
FEW_CPUS = 4  # fewer than these
PASSES, PASSES_SLOW = 45, 36
FEWEST_STEPS, FEWEST_STEPS_SLOW = {True: 600, False: 1500}, 750
FOLDS, FOLDS_SLOW = 5, 4  # the last of five would train beside an idle processor
LIMITS = {  # lowest and highest value of a setting that is a number
    "train.steps": (1, math.inf), "train.batch_size": (1, math.inf), "train.crop_frames": (1, math.inf),
    "folds": (1, math.inf),
    "optim.lr": (0, math.inf), "optim.weight_decay": (0, math.inf), "optim.warmup_steps": (0, math.inf),
    "optim.grad_clip": (0, math.inf), "optim.ema_decay": (0, 1), "embedding.dim": (0, math.inf),
    "embedding.dropout": (0, 1), "train.label_smoothing": (0, 1), "train.mixup": (0, math.inf),
    "train.pseudo_share": (0, 1), "train.valid_every": (0, math.inf), "train.threads": (1, math.inf),
    "infer.crops": (0, math.inf), "infer.frame_budget": (1, math.inf), "seed": (0, math.inf)}
FEW = 0.1  # of the utterances, in classes too small for as many folds as the others allow
FOLD_GB = 2  # of memory for a process that trains one of several folds


@dataclass(frozen=True)
class DataSummary:
    """What the rules look at: the training part of a store.

    smallest_class: utterances of the smallest class, but for small ones that hold under FEW of all. num_groups: counted
    as folds do, where an utterance without a group is one of its own; fewer where not even as few folds as `auto` would
    choose can be made of them, and 1 where no utterance can be held out: each speaker has one file, or one session.
    """

    kind: str  # "logmel", "cepstra" or "waveform"
    num_utterances: int
    smallest_class: int
    median_frames: int  # of frames, whatever the kind
    num_groups: int = FOLDS

    @classmethod
    def of(cls, kind: str, labels: np.ndarray, num_frames: np.ndarray, hop_length: int,
           groups: Sequence[str] = (), can_deal: Callable[[int], bool] = lambda num_folds: True) -> "DataSummary":
        """Summarise training labels (N,), lengths (N,) and groups (N,), "" for none.

        A waveform's samples count as frames of `hop_length`. can_deal: tells whether so many folds can be made.
        """
        frames = num_frames // hop_length if kind == "waveform" else num_frames
        sizes = np.sort(np.unique(labels, return_counts=True)[1])
        smallest = sizes[np.searchsorted(np.cumsum(sizes), FEW * len(labels))]
        num_groups = len(set(groups) - {""}) + sum(not group for group in groups) if len(groups) else len(labels)
        wanted = most = min(FOLDS, num_groups, max(2, int(smallest)))
        while most > 1 and not (can_deal(most) and can_deal(min(most, FOLDS_SLOW))):
            most -= 1
        return cls(kind, len(labels), int(smallest), int(np.median(frames)), most if most < wanted else num_groups)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "DataSummary":
        """Return the summary that a store holds, be it an older version's."""
        return cls(**{item.name: content[item.name] for item in fields(cls) if item.name in content})

    @property
    def is_little(self) -> bool:
        """Whether this is little speech: under LITTLE_SPEECH frames."""
        return self.num_utterances * self.median_frames < LITTLE_SPEECH


def adapt(experiment: Experiment, data: DataSummary) -> Experiment:
    """Return `experiment` complete: every part's settings spelled out and no "auto" left.

    Raises SettingError for an unknown part or setting and for a combination that cannot work.
    """
    if experiment.augment == "auto":
        experiment = override(experiment, {"augment": AUTO_AUGMENT[data.kind]})
    if experiment.encoder.name == "auto":
        chosen = AUTO_ENCODER[data.is_little]
        experiment = override(experiment, {"encoder": part(chosen.name, **chosen.kwargs | experiment.encoder.kwargs)})
    experiment = complete_experiment(experiment)
    takes = lookup("encoder", experiment.encoder.name).takes
    _check_input(experiment, takes, data.kind)
    check_limits(experiment)
    _check_training(experiment)
    train = experiment.train
    device = ("cuda" if has_gpu() else "cpu") if train.device == "auto" else train.device
    folds = auto_folds(data, device) if experiment.folds == "auto" else experiment.folds
    steps = auto_steps(data, train.batch_size, device) if train.steps == "auto" else train.steps
    rules = {  # what stands for "auto"
        "folds": folds,
        "embedding.dim": AUTO_EMBEDDING_DIM[data.is_little],
        "frontend.mean_norm": "both" if data.kind != "cepstra" and takes == "frames" else False,
        "train.device": device,
        "train.steps": steps,
        "train.crop_frames": auto_crop(data),
        "train.short": "device" if data.is_little else "repeat",
        "train.precision": auto_precision(data, device),
        "train.threads": auto_threads(folds, device),
        "train.valid_every": max(1, steps // 10),
    }
    given = flatten(experiment)
    changes = {key: value for key, value in rules.items() if given[key] == "auto"}
    changes |= {"train.processes": distributed.world_size(),
                "optim.warmup_steps": min(experiment.optim.warmup_steps, steps // 10)}
    if folds == "all":  # nothing is validated: the last weights are kept, whatever these say
        changes |= {"train.valid_every": 0, "train.select": "last"}
    return override(experiment, changes)


def _check_input(experiment: Experiment, takes: str | None, kind: str) -> None:
    """Raise SettingError for an encoder that cannot take what a store of this kind holds."""
    if takes == "waveform" and kind != "waveform":
        raise SettingError(f"encoder '{experiment.encoder.name}' takes waveforms, the store holds {kind}: "
                           "use audio input and --set features.store=waveform")
    if takes == "waveform" and experiment.frontend.mean_norm in (True, "both"):
        raise SettingError(f"frontend.mean_norm: encoder '{experiment.encoder.name}' takes waveforms, which have no "
                           "mean over frames; set it to false")


def _check_training(experiment: Experiment) -> None:
    """Raise SettingError for copies that nothing makes, and for a batch that the processes cannot share."""
    train, processes = experiment.train, distributed.world_size()
    if train.speed_classes and not {"speed", "mel_speed"} & {item.name for item in experiment.augment}:
        raise SettingError("train.speed_classes: there are no copies without a speed augmentation; --set "
                           "augment=mel_speed for log-mels, or augment=speed with features.store=waveform")
    if train.processes not in (1, processes):
        raise SettingError(f"train.processes={train.processes}, but {processes} run: start them with `bash run.sh "
                           f"torchrun --nproc-per-node {train.processes} -m src train …`")
    if train.batch_size % processes:
        raise SettingError(f"train.batch_size={train.batch_size} cannot be shared evenly by {processes} processes")


def check_limits(experiment: Experiment) -> None:
    """Raise SettingError for a setting that is out of bounds, and for a name that no file can have."""
    if not re.fullmatch(r"\w[\w.-]*", experiment.name):
        raise SettingError(f"name: '{experiment.name}': letters, digits, '_', '-' and '.' only: files are called so")
    flat = flatten(experiment)
    for key, (low, high) in LIMITS.items():
        value = flat[key]
        if not isinstance(value, str) and not low <= value <= high:
            raise SettingError(f"{key}={value}: must be at least {low}" + (f" and at most {high}" if high < math.inf
                                                                           else ""))


def auto_steps(data: DataSummary, batch_size: int, device: str) -> int:
    """Return about PASSES over the training utterances, from FEWEST_STEPS to 70,000 steps."""
    passes, fewest = PASSES, FEWEST_STEPS[data.is_little]
    if is_slow(data, device):
        passes, fewest = PASSES_SLOW, FEWEST_STEPS_SLOW
    return int(np.clip(passes * data.num_utterances / batch_size, fewest, 70000))


def auto_crop(data: DataSummary) -> int:
    """Return a little over the median utterance's length, between 8 and 200 frames: most utterances whole."""
    return int(np.clip(data.median_frames * 1.1, 8, 200))


def auto_folds(data: DataSummary, device: str) -> int | Literal["all"]:
    """Return FOLDS, fewer where the smallest class has fewer utterances, at least 2 but no more than groups.

    A single group cannot be split, nor can speakers of one file each: all is trained on and nothing validated.
    """
    if data.num_groups == 1:
        return "all"
    most = min(FOLDS_SLOW if is_slow(data, device) else FOLDS, data.num_groups)
    return int(np.clip(data.smallest_class, 2, most))


def auto_precision(data: DataSummary, device: str) -> str:
    """Return bfloat16 on a GPU, and on a processor that multiplies it where there is much speech; else float32."""
    return "bfloat16" if device == "cuda" or (multiplies_bfloat16() and not data.is_little) else "float32"


def is_slow(data: DataSummary, device: str) -> bool:
    """Return whether training takes long here: much speech on few processors that do not multiply bfloat16."""
    return device == "cpu" and not data.is_little and usable_cpus() < FEW_CPUS and not multiplies_bfloat16()


def auto_threads(folds: int | str, device: str) -> int:
    """Return the threads of a process: on a processor its share where several folds are trained at the same time.

    As many folds as there is room for, but in rounds of one size: 5 as 2, 2, 1 or 3, 2.
    """
    cpus = max(1, usable_cpus() // distributed.local_world_size())
    if folds == "all" or device != "cpu" or distributed.world_size() > 1:
        return cpus
    rounds = math.ceil(folds / min(folds, room_for_folds(threads=1)))
    return cpus // math.ceil(folds / rounds)


def room_for_folds(threads: int) -> int:
    """Return how many folds can be trained at once: each takes `threads` processors and FOLD_GB of memory."""
    return max(1, min(usable_cpus() // threads, memory_gb() // FOLD_GB))
