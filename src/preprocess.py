"""Stage 1: a competition and its feature settings in, a store out (frames.bin, table.csv, meta.json; see table.py).

    python -m src preprocess --data japanese_vowels

A store lies in data/cache/<competition>/<kind>-<digest8>, named by the settings that matter for this input, the content
of every file and VERSION; one that is there is used as it is. Files are read once, hashed and decoded from memory by
threads (reading, hashing, decoding and the filter bank all release the interpreter's lock), and written in order by
this thread. Log-mels are kept as float16, cepstra as float32, waveforms as int16.

A training file that cannot be used (truncated, empty, NaN, another shape than the tables say) is skipped, counted and
listed in skipped.csv, at most 5 % of them; one unusable test file stops the stage. A file that is odd and usable all
the same (a wrong header but all of the sound, nothing but silence) is used and named at the end. An utterance shorter
than one window is filled up with silence to one; long audio goes through the filter bank in blocks, and files over ten
minutes are decoded one at a time (an hour at 48 kHz takes about 1.6 GB for that moment).
"""

from pathlib import Path

from src.competition.names import file_name
from src.competition.open import Competition
from src.settings.config import Features
from src.store.ensure import ensure_store
from src.store.find import find_store


def preprocess(competition: Competition, features: Features, threads: int | None = None) -> Path:
    """Return the directory of the competition's store, made now or before, and print which of the two.

    threads: how many decode at once, one per CPU core by default. Raises what `ensure_store` raises.
    """
    if competition.name != file_name(competition.home.name):
        print(f"{competition.home}: called '{competition.name}' here, since another folder has its name already")
    store_dir = find_store(competition, features)
    if store_dir:
        print(f"[1/4] preprocess: {store_dir.name} is there, skipped")
    else:
        print(f"[1/4] preprocess: {competition.name}, {competition.kind} input")
    return ensure_store(competition, features, threads)
