"""Answer every recording that the command line names, and print or write the answers; no torch for an ONNX file."""

import argparse
import csv
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.apps.predict.answers import Answer, Model, Refusal, answer_all, how, refusal_of
from src.apps.predict.model_card import ModelCard
from src.apps.predict.onnx_model import OnnxModel
from src.apps.predict.recordings import list_recordings
from src.apps.predict.timeline import NOBODY
from src.base.errors import InputError, RunError, SettingError
from src.base.files import atomic_open
from src.base.text import some
from src.competition.names import file_name
from src.competition.open import open_competition
from src.runs.folder import Run
from src.store.find import is_made_of


def run(options: argparse.Namespace) -> None:
    """Answer every recording; raises InputError at the end where some could not be read."""
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


def _model(options: argparse.Namespace) -> Model:
    if options.onnx:
        if options.run:
            raise SettingError("--onnx and --run: name one of them; an exported file holds its run's models")
        return OnnxModel(options.onnx)
    run = Run.find(options.run) if options.run else _run_of(options.data)
    from src.apps.predict.blend_models import models_of

    return models_of(run)


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


def _no_refusal(card: ModelCard) -> str:
    return f'everyone is taken for one of the known speakers; {how(card)}, or give --threshold P for "{NOBODY}"'


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
