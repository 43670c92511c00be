"""One utterance of a corpus, as its folders or tables name it: a file, or a part of one."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Recording:
    """One utterance of a corpus.

    path: where its file lies. speaker: as the corpus names them. session: "" where nothing tells; otherwise unique
    within its speaker. name: a file name, unique within its speaker and session. start_s, stop_s: the part of the file
    that it is, in seconds; both 0 for the whole of it.
    """

    path: Path
    speaker: str
    session: str
    name: str
    start_s: float = 0.0
    stop_s: float = 0.0

    @property
    def is_part(self) -> bool:
        """Return whether it is a part of its file."""
        return self.stop_s > 0
