"""Who speaks in a recording: a model's probabilities as an answer, with a timeline and "none of them"; no torch."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from src.apps.predict.model_card import ModelCard
from src.apps.predict.recordings import Recording, read_recording
from src.apps.predict.timeline import NOBODY, Segment, cut, join
from src.base.torch_files import CorruptFile
from src.runs.logits import log_softmax

BATCH_WINDOWS = 64
SILENCE = 1e-5  # of full scale, from the lowest sample to the highest; 16 bits reach down to 3e-5


class Model(Protocol):
    """What answers: every fold's model of a run, or an exported file."""

    card: ModelCard

    def answer(self, pieces: list[Recording]) -> tuple[np.ndarray, np.ndarray]:
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
    measured = card.open_set
    if threshold is None and measured is None:
        return None
    if measured is None:
        return Refusal("probability", threshold, card.temperature,
                       f'"{NOBODY}" below a probability of {threshold:g}; {how(card)}')
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


def _digits(value: float) -> str:
    """Return a threshold as it can be given again: with the digits that tell it from 1."""
    return f"{value:.3g}" if value < 0.99 or value >= 1.01 else f"{value:.12g}"


def how(card: ModelCard) -> str:
    """Say how a threshold for "none of them" is measured."""
    return f"`bash run.sh open-set {card.name}` measures a threshold and its two error rates"
