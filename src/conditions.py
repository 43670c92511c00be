"""Validation for a shifted test set: how finished runs fare on degraded copies of the utterances they never heard.

    python -m src conditions so762/course-19016e0b seed88

Beside the stream: finished runs of a competition that comes as audio go in; a table and conditions.json in each run's
folder come out. Every fold's model hears its own held-out utterances, whole and masked, clean and in each condition of
degrade.py. The degraded utterances lie in data/cache/<competition>/conditions-<digest8>, a store as preprocess makes
it, with a row for each training utterance in each condition; it is made once, by threads, and a killed making goes on
from its last whole chunk.

"shifted" is the accuracy to expect of a test set with the shares in MIXTURE.
"""

import argparse
import contextlib
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import ledger
from src.competition import Competition, find_folder, open_competition
from src.config import Features, from_json
from src.errors import InputError, RunError, SettingError
from src.files import digest, lock, read_json, write_json
from src.plan import find_run
from src.preprocess import TABLE, find_store, preprocess
from src.workspace import cache_dir

if TYPE_CHECKING:
    import numpy as np

    from src.store import Store
    from src.store_writer import Chunk

VERSION = 1  # raised when the same run would get other counts; it is part of the store's digest
CHUNK_UTTERANCES = 16
NUM_VOICES, VOICE_S = 64, 20.0  # training utterances that babble is made of, and how much of each

# Shares of a shifted test set: 0.30 as recorded, as so762 states of its own; the rest another session, whose effects
# come together as degrade.EFFECT_PROBS says, so that these shares follow from it.
MIXTURE = {
    "clean": 0.300,
    "equaliser": 0.092,
    "noise": 0.034,
    "babble": 0.027,
    "reverberation": 0.023,
    "telephone": 0.026,
    "bitrate": 0.170,
    "mixed": 0.328,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src conditions`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a finished run, or a unique prefix of its name")
    parser.add_argument("--data", metavar="NAME_OR_DIR", help="their competition, where it does not lie under data/")


def main(options: argparse.Namespace) -> None:
    """Evaluate each run that was not yet, and print a table: a row a run, a column a condition."""
    run_dirs = [find_run(name) for name in options.runs]
    results = [evaluate(run_dir, options.data) for run_dir in run_dirs]
    for run_dir, result in zip(run_dirs, results):
        said = ", ".join(f"{condition} {_accuracy(result[condition]):.4f}" for condition in MIXTURE)
        with contextlib.suppress(SettingError):  # a run that has no row: a search's or another ledger's
            ledger.describe_shift(_run_id(run_dir), result["shifted"], said)
    print(table([_run_id(run_dir) for run_dir in run_dirs], results))


def table(run_ids: Sequence[str], results: Sequence[dict[str, Any]]) -> str:
    """Return the accuracies of runs, results as `evaluate` returns them, as aligned text."""
    lines = [("run", *MIXTURE, "shifted")]
    for run_id, result in zip(run_ids, results):
        shares = [*(_accuracy(result[condition]) for condition in MIXTURE), result["shifted"]]
        lines.append((run_id, *(f"{share:.4f}" for share in shares)))
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(f"{line[0]:<{widths[0]}}  " + "  ".join(f"{cell:>{width}}" for cell, width in
                                                             zip(line[1:], widths[1:])) for line in lines)


def evaluate(run_dir: Path, data: str | Path | None = None) -> dict[str, Any]:
    """Return a finished run's validation, clean and by condition; it is kept in the run's conditions.json.

    data: the competition's folder or its name under data/, by default the run's own. The result holds "version",
    "store" (the digest of the degraded utterances), "clean" and each condition as {"num_right", "num_valid"}, and
    "shifted". Raises InputError where the competition does not come as audio or is not what the run was trained on,
    SettingError for a blend and for a run that held nothing out, RunError for a run that is not finished.
    """
    from src.store import Store

    result = _finished(run_dir)
    competition = open_competition(data or find_folder(run_dir.parent.name))
    if competition.feature_kind != "waveform":
        raise InputError(f"{competition.directory}: only audio can be degraded, and this competition comes as "
                         f"{competition.feature_kind}; there is no `conditions` for it")
    features = from_json(read_json(run_dir / "experiment.json")).features
    clean = Store.open(find_store(competition, features) or preprocess(competition, features))
    if clean.digest != result["store"]:
        raise InputError(f"{competition.directory}: not what {_run_id(run_dir)} was trained on, or changed since; name "
                         "its folder with --data, or train it again")
    degraded = Store.open(degraded_store(competition, clean))
    path = run_dir / "conditions.json"
    known = read_json(path) if path.exists() else {}
    if known.get("store") == degraded.digest:
        counts = {condition: known[condition] for condition in MIXTURE}
    else:
        counts = _count(run_dir, clean, degraded)
    shifted = sum(weight * _accuracy(counts[condition]) for condition, weight in MIXTURE.items())
    content = {"version": VERSION, "store": degraded.digest, **counts, "shifted": shifted}
    if content != known:
        write_json(path, content)
    return content


def _run_id(run_dir: Path) -> str:
    return f"{run_dir.parent.name}/{run_dir.name}"


def _accuracy(count: dict[str, int]) -> float:
    return count["num_right"] / count["num_valid"]


def _finished(run_dir: Path) -> dict[str, Any]:
    """Return the result of a run that can be evaluated."""
    if not (run_dir / "experiment.json").exists():
        raise SettingError(f"{_run_id(run_dir)}: not a run of one model; name the runs that it blends")
    if not (run_dir / "result.json").exists():
        raise RunError(f"{_run_id(run_dir)}: not finished; the command that began it goes on from where it stopped")
    result = read_json(run_dir / "result.json")
    if not (run_dir / "fold_0" / "model.pt").exists():
        raise SettingError(f"{_run_id(run_dir)}: no fold_0/model.pt, so it holds no speaker model; name another run")
    if result["folds"] == "all":
        raise SettingError(f"{_run_id(run_dir)}: trained on every utterance (folds=all), none is left to validate on; "
                           "evaluate the same experiment with folds=5 or folds=1")
    return result


def _count(run_dir: Path, clean: "Store", degraded: "Store") -> dict[str, dict[str, int]]:
    """Return {condition: {"num_right", "num_valid"}} over the held-out utterances of every fold."""
    import torch
    from tqdm import tqdm

    from src.degrade import CONDITIONS
    from src.evaluate import predict
    from src.model import load_model

    row_of = {utt_id: row for row, utt_id in enumerate(degraded.utt_ids)}
    conditions = ("clean", *CONDITIONS)
    counts = {condition: {"num_right": 0, "num_valid": 0} for condition in conditions}
    folds = clean.folds(read_json(run_dir / "result.json")["folds"])
    with tqdm(total=len(folds) * len(conditions), desc=_run_id(run_dir), unit="condition", disable=None) as bar:
        for fold, (_, valid_rows) in enumerate(folds):
            model, experiment, _ = load_model(run_dir / f"fold_{fold}" / "model.pt")
            device = experiment.train.device if torch.cuda.is_available() else "cpu"
            model.to(device)
            for condition in conditions:
                store, rows = clean, valid_rows
                if condition != "clean":
                    store, rows = degraded, _rows(row_of, condition, [clean.utt_ids[row] for row in valid_rows])
                logits = predict(model, store, rows, replace(experiment.train, device=device), experiment.infer)
                counts[condition]["num_right"] += int((logits.argmax(1) == clean.labels[valid_rows]).sum())
                counts[condition]["num_valid"] += len(rows)
                bar.update()
    return counts


def _rows(row_of: dict[str, int], condition: str, utt_ids: list[str]) -> "np.ndarray":
    import numpy as np

    return np.array([row_of[_copy_id(condition, utt_id)] for utt_id in utt_ids])


# The store of degraded utterances -------------------------------------------------------------------------------------


def degraded_store(competition: Competition, clean: "Store") -> Path:
    """Make the store of the training utterances of `clean` in every condition, or find it made; return its folder.

    Its features are those of `clean`, its utterances are called <condition>/<utt_id>. Raises RunError when the disk is
    full; the same command goes on from there.
    """
    from src import degrade

    store_digest = digest(["conditions", VERSION, degrade.VERSION, clean.digest])
    folder = cache_dir(competition.name)
    final = folder / f"conditions-{store_digest[:8]}"
    with lock(folder / "conditions.lock", f"conditions: waiting for another process that works in {folder}"):
        if not (final / "meta.json").exists():
            _make(competition, clean, final, store_digest)
    return final


def _copy_id(condition: str, utt_id: str) -> str:
    return f"{condition}/{utt_id}"


def _make(competition: Competition, clean: "Store", final: Path, store_digest: str) -> None:
    import torch
    from tqdm import tqdm

    from src.adapt import usable_cpus
    from src.degrade import CONDITIONS
    from src.store_writer import StoreWriter

    rows = clean.train_rows
    chunks = [rows[i : i + CHUNK_UTTERANCES] for i in range(0, len(rows), CHUNK_UTTERANCES)]
    writer = StoreWriter(final.with_suffix(".partial"), [len(chunk) * len(CONDITIONS) for chunk in chunks])
    num_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(usable_cpus(), initializer=torch.set_num_threads, initargs=(1,))
    try:
        reader = _DegradedReader(competition, clean)
        todo = chunks[len(writer.finished) :]
        with tqdm(total=len(rows), initial=len(rows) - sum(map(len, todo)), desc="degrade", unit="utterance",
                  disable=None) as bar:
            for chunk, parts in pool.map(reader.read, todo):
                writer.append(chunk, parts)
                bar.update(len(chunk.num_frames) // len(CONDITIONS))
        num_frames = [count for chunk in writer.finished for count in chunk.num_frames]
        copies = [(condition, row) for row in rows for condition in CONDITIONS]
        table, offset = [TABLE], 0
        for (condition, row), count in zip(copies, num_frames):
            table.append((_copy_id(condition, clean.utt_ids[row]), "train", clean.speakers[clean.labels[row]],
                          clean.groups[row], clean.texts[row], offset, count))
            offset += count
        writer.finish(final, table, [("utt_id", "path", "cause")], {
            "digest": store_digest, "version": VERSION, "competition": competition.name, "kind": clean.kind,
            "dim": clean.dim, "num_utterances": len(copies), "num_frames": offset,
            "num_bytes": sum(chunk.num_bytes for chunk in writer.finished), "settings": clean.settings,
            "speakers": list(clean.speakers)})
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        writer.close()
        torch.set_num_threads(num_threads)


class _DegradedReader:
    """Reads utterances and degrades them, from several threads at once."""

    def __init__(self, competition: Competition, clean: "Store") -> None:
        from src.degrade import SAMPLE_RATE
        from src.frontend import LogMel

        settings = {key: value for key, value in clean.settings.items() if key != "kind"}
        self.features = Features(store=clean.kind, **settings)
        self.clean, self.directory = clean, competition.directory
        self.paths = {u.utt_id: u.path for u in competition.utterances if u.split == "train"}
        self.log_mel = LogMel(self.features) if clean.kind == "logmel" else None
        self.voice_rows = self._draw_voices()
        self.voices = [self._waveform(row)[: int(VOICE_S * SAMPLE_RATE)] for row in self.voice_rows]

    def _draw_voices(self) -> list[int]:
        """Return the rows of NUM_VOICES utterances, of as many speakers as there are."""
        import numpy as np

        rows = np.random.default_rng(0).permutation(self.clean.train_rows).tolist()
        heard: Counter = Counter()
        turns = {}
        for row in rows:
            turns[row] = heard[self.clean.labels[row]]
            heard[self.clean.labels[row]] += 1
        return sorted(rows, key=turns.__getitem__)[:NUM_VOICES]

    def _waveform(self, row: int) -> "np.ndarray":
        from src import audio
        from src.degrade import PEAK_DB, SAMPLE_RATE

        data = (self.directory / self.paths[self.clean.utt_ids[row]]).read_bytes()
        heard = replace(self.features, sample_rate=SAMPLE_RATE, peak_db=PEAK_DB)
        return audio.standardise(*audio.decode(data), heard).numpy()

    def read(self, rows: "np.ndarray") -> "tuple[Chunk, list[memoryview]]":
        """Return the record and the bytes of a chunk: each of `rows` in every condition."""
        from src.degrade import CONDITIONS, degrade, generator
        from src.store_writer import Chunk

        num_frames, parts, crc = [], [], 0
        for row in rows.tolist():
            waveform, utt_id = self._waveform(row), self.clean.utt_ids[row]
            voices = [voice for other, voice in zip(self.voice_rows, self.voices)
                      if self.clean.labels[other] != self.clean.labels[row]]
            for condition in CONDITIONS:
                degraded = degrade(waveform, condition, generator(condition, utt_id), voices)
                num_frames.append(0)
                for block in self._stored(degraded):
                    num_frames[-1] += len(block)
                    parts.append(memoryview(block).cast("B"))
                    crc = zlib.crc32(parts[-1], crc)
        return Chunk(num_frames, {}, {}, sum(map(len, parts)), crc), parts

    def _stored(self, waveform: "np.ndarray") -> "list[np.ndarray]":
        """Return a waveform as the store keeps it, in one or more blocks."""
        from src import audio
        from src.degrade import SAMPLE_RATE

        scaled = audio.standardise(waveform, SAMPLE_RATE, self.features)
        if self.log_mel is None:
            return [audio.to_int16(scaled).numpy()]
        return [block.half().contiguous().numpy() for block in self.log_mel.blocks(scaled)]
