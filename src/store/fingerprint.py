"""Tell whether two recordings are the same one, by another microphone, at another level or in another codec.

Goes in: the frames of a store (log-mels, in natural logarithms). A sketch of 256 numbers per utterance finds the pairs
that could be the same, `similarity` compares such a pair frame by frame. Both look at how each band rises and falls,
which neither a level nor a microphone changes, and at what is louder than the band's mean, which noise changes least
(after Haitsma and Kalker, "A highly robust audio fingerprinting system", 2002). Two takes of a sentence by one speaker
differ in the first or the second.
"""

import numpy as np

SEGMENTS, SAMPLES, BANDS = 32, 4, 8  # of a sketch: the parts of an utterance, the frames read of each, the mel bands
MOST_LAG = 16  # frames by which two copies may be shifted; a codec adds up to seven
LAG_FRAMES = 128  # from the middle of two recordings, by which their lag is found
SURE = 0.5, 14.0  # similarity of the same recording: above 0.5 + 14 / num_frames; a word said twice comes near


def sampled(frames: np.ndarray, offsets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return (N, SEGMENTS * SAMPLES, F) frames, evenly spaced over each utterance: what sketches are made of.

    frames: (total, F). offsets, lengths: (N,) place and length of each utterance in it.
    """
    places = np.arange(SEGMENTS * SAMPLES) * lengths[:, None] // (SEGMENTS * SAMPLES)
    return frames[offsets[:, None] + places]


def sketch(samples: np.ndarray) -> np.ndarray:
    """Return (N, SEGMENTS * bands) float32 of unit length for `samples` (N, SEGMENTS * SAMPLES, F), 0 for silence."""
    num_mels = samples.shape[2]
    bands = min(BANDS, num_mels)
    pooling = np.zeros((num_mels, bands), np.float32)
    pooling[np.arange(num_mels), np.arange(num_mels) * bands // num_mels] = 1
    means = samples.astype(np.float32).reshape(len(samples), SEGMENTS, SAMPLES, num_mels).mean(2) @ pooling
    means -= means.mean(1, keepdims=True)
    loud = np.maximum(means, 0)
    loud -= loud.mean(1, keepdims=True)
    return normalised(loud.reshape(len(samples), -1))


def normalised(rows: np.ndarray) -> np.ndarray:
    """Return rows (N, D) scaled to unit length; rows of next to nothing become 0."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(norms > 1e-3, rows / np.maximum(norms, 1e-3), 0).astype(np.float32)


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Return how alike two recordings (T, F) and (T', F) are, from -1 to 1: the correlation of how their bands change
    from frame to frame where they are loud, at the lag where it is highest."""
    a, b = _changes(first), _changes(second)
    most = min(MOST_LAG, min(len(a), len(b)) // 4)
    middle = max(0, min(len(a), len(b)) - LAG_FRAMES) // 2
    lag = max(range(-most, most + 1), key=lambda lag: _correlation(a, b, lag, middle, LAG_FRAMES))
    return _correlation(a, b, lag, 0, max(len(a), len(b)))


def _correlation(a: np.ndarray, b: np.ndarray, lag: int, begin: int, length: int) -> float:
    """Return the correlation of a[t + lag] and b[t] over at most `length` frames t from `begin` on."""
    x, y = a[begin + max(lag, 0) :][:length], b[begin + max(-lag, 0) :][:length]
    x, y = x[: len(y)].ravel(), y[: len(x)].ravel()
    return float(x @ y / np.sqrt((x @ x) * (y @ y) + 1e-9))


def is_same(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether two utterances (T, F) and (T', F) are surely the same recording; never below 28 frames."""
    num_frames = min(len(first), len(second))
    if abs(len(first) - len(second)) > MOST_LAG:
        return False
    return similarity(first, second) > SURE[0] + SURE[1] / num_frames


def _changes(frames: np.ndarray) -> np.ndarray:
    """Return (T - 1, F) differences of successive frames, what is below each band's mean taken as the mean."""
    centred = frames.astype(np.float32)
    centred -= centred.mean(0)
    return np.diff(np.maximum(centred, 0), axis=0)
