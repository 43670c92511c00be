"""What training by CTC will be before it is done: its encoder, its transcripts and its digest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.apps.ctc.transcripts import read_transcripts
from src.apps.task import Task
from src.base.errors import SettingError
from src.competition.open import Competition
from src.runs.plan import Plan
from src.settings.config import Experiment, override
from src.settings.parts import lookup
from src.store.ensure import ensure_store

TASK = Task(
    name="ctc", title="CTC", version=4, metric="token error rate",
    used=("encoder", "finetune", "features", "optim", "train.steps", "train.batch_size", "train.valid_every",
          "train.select", "train.precision", "train.threads", "train.device", "infer.frame_budget", "folds", "seed"),
    start={  # where the experiment's own values are for telling speakers apart
        "features.store": "waveform",
        "augment": (),
        "folds": 1,
        "train.batch_size": 16,
        "train.valid_every": "auto",
        "train.select": "last",
    },
    digested=("encoder", "finetune", "optim", "train", "infer", "folds", "seed"), num_logs=20, stage="train",
    empty=("pooling", "batch_norm", "embedding_dropout", "mean_norm", "crop_frames"))


def make_plan(competition: Competition, experiment: Experiment, changes: Mapping[str, Any],
              transcripts: Path | None = None) -> tuple[Plan, dict[str, str]]:
    """Return what training the experiment's encoder will be and its texts {utt_id: transcript}; make a missing store.

    changes: settings by dotted key. Raises SettingError for a setting that CTC does not use or an encoder that takes
    no waveforms, InputError where there are no transcripts.
    """
    TASK.check(changes)
    experiment = override(experiment, {**TASK.start, **changes})
    if lookup("encoder", experiment.encoder.name).takes != "waveform":
        raise SettingError(f"encoder '{experiment.encoder.name}' takes log-mels; CTC trains encoders that take "
                           "waveforms, such as wav2vec2")
    if experiment.finetune.remove:
        raise SettingError("finetune.remove: the least important heads are measured where speakers are told apart; "
                           "list them in finetune.heads")
    texts = read_transcripts(competition, transcripts)
    store_dir = ensure_store(competition, experiment.features)
    adapted = TASK.complete(experiment, store_dir)
    run_digest = TASK.digest_of(adapted, store_dir, texts=texts)
    return Plan(competition.name, adapted, store_dir, run_digest), texts
