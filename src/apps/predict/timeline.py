"""Who speaks when: a long recording cut into windows, and their answers joined into segments.

Goes in: a length and an answer a window. Comes out: a list of segments in seconds. Used by predict; imports no torch.
"""

from dataclasses import dataclass
from itertools import groupby

LONG_S = 20.0  # what is longer may hold several speakers
WINDOW_S = 3.0
NOBODY = "none of them"  # what stands in a table for a speaker of None


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording and who speaks there; `speaker` None is none of the known ones."""

    start_s: float
    end_s: float
    speaker: str | None
    probability: float


def cut(num_values: int, rate: float) -> list[tuple[int, int]]:
    """Return (first, last + 1) of each window of a recording of `num_values` samples or frames, `rate` a second.

    One window is the whole recording where it has at most 20 s or no rate is known (0); else they are 3 s each, the
    last up to 4.5 s.
    """
    if not rate or num_values <= LONG_S * rate:
        return [(0, num_values)]
    size = round(WINDOW_S * rate)
    starts = range(0, num_values - size // 2, size)
    return [(start, num_values if start == starts[-1] else start + size) for start in starts]


def join(segments: list[Segment]) -> list[Segment]:
    """Return `segments` with neighbours of the same speaker merged, their probability the mean over time."""
    joined = []
    for speaker, group in groupby(segments, key=lambda segment: segment.speaker):
        members = list(group)
        total = sum(s.end_s - s.start_s for s in members)
        probability = sum((s.end_s - s.start_s) * s.probability for s in members) / total
        joined.append(Segment(members[0].start_s, members[-1].end_s, speaker, probability))
    return joined
