"""Transcripts of a competition's training utterances: its own table or a CSV in, {utt_id: text} out."""

from pathlib import Path

from src.base.errors import InputError
from src.base.tables import read_csv
from src.competition.open import Competition


def read_transcripts(competition: Competition, path: Path | None = None) -> dict[str, str]:
    """Return {utt_id: text} of the training utterances that have a transcript.

    path: a CSV of path and text; without it, the text column of the competition's utterances.csv, or else
    transcripts.csv in its folder. Raises InputError where there is none, or where a path is no training utterance.
    """
    train = [utterance for utterance in competition.utterances if utterance.split == "train"]
    own = {utterance.utt_id: utterance.text for utterance in train if utterance.text}
    if path is None and own:
        return own
    path, known = path or competition.directory / "transcripts.csv", {item.path: item.utt_id for item in train}
    if not path.exists():
        raise InputError(f"{path}: no transcripts; give a CSV of path and text by --transcripts, or fill the text "
                         "column of utterances.csv")
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, row in read_csv(path, ("path", "text")).items():
        if lines.setdefault(row["path"], line) != line:
            raise InputError(f"{path}: path: '{row['path']}' stands in lines {lines[row['path']]} and {line}; remove "
                             "one of them")
        if row["path"] not in known:
            raise InputError(f"{path}: path: '{row['path']}' is no training utterance of {competition.name}; paths are "
                             "relative to the competition's folder")
        if row["text"]:
            texts[known[row["path"]]] = row["text"]
    if not texts:
        raise InputError(f"{path}: text: every transcript is empty")
    return texts
