"""Say who speaks in new recordings, with calibrated probabilities; a timeline for long ones; "none of them" where told.

    python -m src predict meeting.wav interviews/ --data so762 --top 3
    python -m src predict meeting.wav --onnx speakers.onnx          (no torch in the process)

Goes in: files, and folders of files, of audio or of frames as the run takes them. Comes out: a table, JSON or CSV. A
recording of more than 20 s is answered by windows of 3 s, each seen as an utterance of its own, and its speakers' share
of the time; it may hold several. Where nothing sounds, nobody speaks. A file that cannot be read is named and left out,
and the exit code is then 3.
"""

import argparse
import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from src.apps.predict.model_card import ModelCard
from src.apps.predict.recordings import Recording, list_recordings, read_recording
from src.apps.predict.timeline import Segment, cut, join
from src.base.errors import InputError, RunError, SettingError
from src.base.files import atomic_open
from src.base.text import some
from src.base.torch_files import CorruptFile
from src.competition.names import file_name
from src.competition.open import open_competition
from src.runs.folder import Run
from src.runs.logits import log_softmax
from src.settings import arguments
from src.store.find import is_made_of

if TYPE_CHECKING:
    import numpy as np

BATCH_WINDOWS = 64
SILENCE = 1e-5  # of full scale, from the lowest sample to the highest; 16 bits reach down to 3e-5
NOBODY = "none of them"


class Model(Protocol):
    """What answers: every fold's model of a run, or an exported file."""

    card: ModelCard

    def answer(self, pieces: list[Recording]) -> "tuple[np.ndarray, np.ndarray]":
        """Return log-probabilities (N, C) and energies (N,) of pieces of recordings."""


@dataclass(frozen=True)
class Refusal:
    """Who counts as none of the known speakers: a `score` ("probability" or "energy") below `value`.

    temperature: of the probability that is meant; the model's own may have been fitted on other utterances.
    """

    score: str
    value: float
    temperature: float
    rates: str  # what is known of its two error rates, as a sentence


@dataclass(frozen=True)
class Answer:
    """Who speaks in one recording.

    length_s: None where its frames have no known rate. top: (speaker, probability), the most probable first; of a long
    recording, whose windows have been answered one by one, (speaker, share of the time), its segments added up.
    segments: one for a short recording. A speaker is None for none of the known ones.
    """

    path: Path
    length_s: float | None
    is_long: bool
    top: list[tuple[str | None, float]]
    segments: list[Segment]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src predict`."""
    parser.add_argument("files", nargs="+", metavar="FILE_OR_DIR", help="recordings, or folders of them at any depth")
    arguments.add_arguments(parser, data={
        "metavar": "COMPETITION", "help": "whose newest finished run answers (default: %(default)s)"})
    parser.add_argument("--run", metavar="NAME", help="the run that answers, or a unique prefix of its name")
    parser.add_argument("--onnx", metavar="FILE", type=Path, help="an exported model that answers, without torch")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="speakers to name (default: %(default)s)")
    parser.add_argument("--threshold", type=float, metavar="P",
                        help=f'below this probability it is "{NOBODY}" (default: as `open-set` measured)')
    parser.add_argument("--json", action="store_true", help="print JSON, and everything else to standard error")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="also write a row a segment to this file")


def main(options: argparse.Namespace) -> None:
    """Answer every recording; raises InputError at the end where some could not be read."""
    if options.top < 1:
        raise SettingError(f"--top {options.top}: at least 1")
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise SettingError(f"--threshold {options.threshold}: a probability, 0 to 1")
    if options.csv and options.csv.is_dir():
        raise SettingError(f"--csv {options.csv}: a folder; name a file, such as {options.csv / 'answers.csv'}")
    model = _model(options)
    card, refusal = model.card, refusal_of(model.card, options.threshold)
    paths, left_out = list_recordings(options.files, card)
    said = sys.stderr if options.json else sys.stdout
    if left_out:
        print(f"left out, for their names are of no kind that {card.name} answers: {some([p.name for p in left_out])} "
              f"({len(left_out):,}); a file that is named itself is tried", file=said)
    folds = "1 fold's model" if card.num_folds == 1 else f"{card.num_folds} folds averaged"
    print(f"{card.name}: {len(card.speakers)} speakers, {folds}; {card.calibration()}", file=said)
    print(refusal.rates if refusal else _no_refusal(card), file=said, flush=True)
    skipped: list[tuple[Path, str]] = []
    answers = []
    for answer in answer_all(model, paths, refusal, options.top, skipped):
        answers.append(answer)
        if not options.json:
            print(_text(answer), flush=True)
    if options.json:
        print(json.dumps(_content(card, refusal, answers, skipped), indent=1, ensure_ascii=False))
    if options.csv:
        _write_csv(options.csv, answers)
    if skipped:
        listing = "\n".join(f"  {path}: {cause}" for path, cause in skipped)
        raise InputError(f"{len(skipped)} of {len(paths)} files could not be answered:\n{listing}")


def answer_all(model: Model, paths: list[Path], refusal: Refusal | None, top: int,
               skipped: list[tuple[Path, str]]) -> Iterator[Answer]:
    """Yield the answer of each recording; one that cannot be read is appended to `skipped` with its cause."""
    for path in paths:
        try:
            yield answer_one(model, path, read_recording(path, model.card), refusal, top)
        except CorruptFile as cause:
            skipped.append((path, str(cause)))


def answer_one(model: Model, path: Path, recording: Recording, refusal: Refusal | None, top: int) -> Answer:
    """Return who speaks in a recording; raises CorruptFile where nothing sounds in it."""
    import numpy as np

    rate, num_values = recording.rate, len(recording.values)
    windows = cut(num_values, rate)
    sounds = [not recording.is_audio or bool(np.ptp(recording.values[start:stop]) > SILENCE)
              for start, stop in windows]
    if not any(sounds):
        raise CorruptFile("holds nothing but silence")
    log_probs, energies = [], []
    for first in range(0, len(windows), BATCH_WINDOWS):
        pieces = [Recording(recording.values[start:stop], rate)
                  for start, stop in windows[first : first + BATCH_WINDOWS]]
        for found, values in zip(model.answer(pieces), (log_probs, energies)):
            values.append(found)
    log_probs, energies = np.concatenate(log_probs), np.concatenate(energies)
    probs = np.exp(log_probs)
    speakers, best = model.card.speakers, probs.argmax(1)
    score = energies
    if refusal and refusal.score == "probability":
        score = np.exp(log_softmax(log_probs * (model.card.temperature / refusal.temperature))).max(1)
    segments = [
        Segment(start / rate if rate else 0.0, stop / rate if rate else 0.0,
                None if not sounds[i] or (refusal and score[i] < refusal.value) else speakers[best[i]],
                float(probs[i].max()) if sounds[i] else 0.0)
        for i, (start, stop) in enumerate(windows)]
    if len(windows) == 1:
        order = np.argsort(-probs[0], kind="stable")[:top]
        return Answer(path, num_values / rate if rate else None, False, [(speakers[i], float(probs[0, i]))
                                                                         for i in order], segments)
    time = Counter()
    for segment, (start, stop) in zip(segments, windows):
        time[segment.speaker] += (stop - start) / num_values
    return Answer(path, num_values / rate, True, time.most_common(top), join(segments))


def refusal_of(card: ModelCard, threshold: float | None) -> Refusal | None:
    """Return when a recording is of none of the known speakers: below `threshold`, else as open-set measured; None
    where neither is there."""
    import numpy as np

    measured = card.open_set
    if threshold is None and measured is None:
        return None
    if measured is None:
        return Refusal("probability", threshold, card.temperature,
                       f'"{NOBODY}" below a probability of {threshold:g}; {_how(card)}')
    name = measured["score"] if threshold is None else "probability"
    table = measured["scores"][name]
    value = table["threshold"] if threshold is None else threshold
    if threshold is None:
        refused, accepted = table["known_refused"], table["unknown_accepted"]
    else:
        refused, accepted = (float(np.interp(threshold, table["table"]["threshold"], table["table"][rate]))
                             for rate in ("known_refused", "unknown_accepted"))
    temperature = card.temperature if threshold is not None else measured["temperature"]  # of those that are shown
    kind = "an energy" if name == "energy" else "a probability" + (
        f" (at temperature {temperature:.3g})" if abs(temperature / card.temperature - 1) > 0.01 else "")
    rates = (f'"{NOBODY}" below {kind} of {_digits(value)}: '
             f"{refused:.1%} of known speakers' utterances are refused, {accepted:.1%} of unknown speakers' accepted "
             f"(measured with {measured['num_left_out']} speakers left out, on the utterances that chose it)")
    return Refusal(name, value, temperature, rates)


def _model(options: argparse.Namespace) -> Model:
    if options.onnx:
        if options.run:
            raise SettingError("--onnx and --run: name one of them; an exported file holds its run's models")
        from src.apps.predict.onnx_model import OnnxModel

        return OnnxModel(options.onnx)
    run = Run.find(options.run) if options.run else _run_of(options.data)
    if run.is_blend:
        from src.apps.predict.blend_models import BlendModels

        return BlendModels(run)
    from src.apps.predict.fold_models import FoldModels

    return FoldModels(Run.open(run.run_id))


def _run_of(data: str) -> Run:
    """Return the newest finished run of the competition in a folder, or of the name of a folder that is gone.

    Raises RunError where it was trained on other files than lie there.
    """
    try:
        competition = open_competition(data)
    except SettingError:  # a run needs its data no more
        return Run.newest(file_name(Path(os.path.abspath(data)).name))
    run = Run.newest(competition.name)
    if not is_made_of(run.store_digest, competition, run.experiment.features):
        raise RunError(f"{competition.directory}: {run.run_id} was trained on other files than lie there now; run the "
                       f"stream again, or name the run with --run {run.run_id}")
    return run


def _digits(value: float) -> str:
    """Return a threshold as it can be given again: with the digits that tell it from 1."""
    return f"{value:.3g}" if value < 0.99 or value >= 1.01 else f"{value:.12g}"


def _no_refusal(card: ModelCard) -> str:
    return f'everyone is taken for one of the known speakers; {_how(card)}, or give --threshold P for "{NOBODY}"'


def _how(card: ModelCard) -> str:
    return f"`bash run.sh open-set {card.name}` measures a threshold and its two error rates"


def _text(answer: Answer) -> str:
    """Return a recording's lines of the table."""
    others = ", ".join(f"{speaker if speaker is not None else NOBODY} {number:.3f}" for speaker, number in answer.top)
    if not answer.is_long:
        speaker = answer.segments[0].speaker
        return f"{answer.path}: {speaker if speaker is not None else NOBODY} ({others})"
    lines = [f"{answer.path}: {answer.length_s:.1f} s, shares of the time: {others}"]
    for s in answer.segments:
        name = s.speaker if s.speaker is not None else NOBODY
        lines.append(f"  {_clock(s.start_s)} to {_clock(s.end_s)}  {s.probability:.3f}  {name}")
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    minutes, tenths = divmod(round(seconds * 10), 600)
    return f"{minutes:3d}:{tenths / 10:04.1f}"


def _content(card: ModelCard, refusal: Refusal | None, answers: list[Answer],
             skipped: list[tuple[Path, str]]) -> dict[str, Any]:
    """Return what --json prints; a speaker of null is none of the known ones, a long recording's share one of time."""
    return {
        "run": card.name, "temperature": card.temperature, "calibrated_on": card.num_calibrated,
        "none_of_them": asdict(refusal) if refusal else None,
        "files": [{"file": str(answer.path), "length_s": answer.length_s,
                   "top": [{"speaker": speaker, "share" if answer.is_long else "probability": round(number, 6)}
                           for speaker, number in answer.top],
                   "timeline": [{**asdict(s), "probability": round(s.probability, 6)} for s in answer.segments]}
                  for answer in answers],
        "skipped": [{"file": str(path), "cause": cause} for path, cause in skipped],
    }


def _write_csv(path: Path, answers: list[Answer]) -> None:
    """Write a row a segment; no speaker is none of the known ones."""
    with atomic_open(path, errors="backslashreplace") as file:  # a file's name need not be UTF-8
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "start_s", "end_s", "speaker", "probability"))
        writer.writerows((answer.path, f"{s.start_s:.3f}", f"{s.end_s:.3f}", s.speaker or "", f"{s.probability:.6f}")
                         for answer in answers for s in answer.segments)
