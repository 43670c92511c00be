"""What the name of a file or folder says: audio that is read, audio that is not, no audio, nobody's voice.

Used wherever folders are listed, so that no file drops out unmentioned: what is none of these is named to the person.
"""

import os
from collections import Counter
from collections.abc import Iterable

# Read: RIFF (.wav and its other endings), flac, Ogg and MPEG audio; each is checked to be whole when it is decoded.
AUDIO_SUFFIXES = (".wav", ".wave", ".bwf", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mpga")
OTHER_AUDIO_SUFFIXES = (  # not read: what few decode, and what would be shortened unseen where a part is missing
    ".3g2", ".3ga", ".3gp", ".8svx", ".aac", ".ac3", ".adts", ".aif", ".aifc", ".aiff", ".alac", ".amr", ".ape", ".au",
    ".avr", ".awb", ".caf", ".dsf", ".dss", ".eac3", ".g722", ".g729", ".gsm", ".iff", ".ircam", ".m4a", ".m4b", ".m4p",
    ".m4r", ".mka", ".mp1", ".mp4", ".mpc", ".nist", ".ofr", ".paf", ".pcm", ".qcp", ".ra", ".ram", ".raw", ".rf64",
    ".rm", ".shn", ".silk", ".snd", ".sou", ".sph", ".sphere", ".spx", ".svx", ".tak", ".tta", ".voc", ".vox", ".w64",
    ".wave64", ".webm", ".wma", ".wv")
NO_AUDIO_SUFFIXES = (  # tables, texts, labels, pictures, features and programs, as corpora hold them beside the audio
    ".bib", ".bmp", ".cfg", ".conf", ".csv", ".ctm", ".db", ".doc", ".docx", ".eaf", ".f0", ".gif", ".h5", ".hdf5",
    ".htm", ".html", ".ini", ".ipynb", ".jpeg", ".jpg", ".json", ".jsonl", ".lab", ".list", ".lnk", ".log", ".lst",
    ".md", ".md5", ".mlf", ".npy", ".npz", ".ods", ".par", ".parquet", ".pdf", ".phn", ".pickle", ".pitch", ".pkl",
    ".png", ".prompts", ".pt", ".pth", ".py", ".pyc", ".rst", ".rtf", ".rttm", ".scp", ".sh", ".sha1", ".sha256",
    ".srt", ".stm", ".svg", ".text", ".textgrid", ".toml", ".trn", ".trs", ".tsv", ".txt", ".url", ".vtt",
    ".wrd", ".xls", ".xlsx", ".xml", ".yaml", ".yml")
NO_AUDIO_NAMES = {  # files without an ending
    "authors", "changelog", "changes", "checksums", "citation", "copying", "licence", "license", "makefile", "manifest",
    "md5sum", "md5sums", "readme", "sha256sum", "sha256sums", "spk2gender", "spk2utt", "text", "utt2dur", "utt2spk",
    "version"}
NOBODY = {  # folders that systems and programs make by themselves, and recordings of no voice
    "#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recently-snapshot", "@recycle", "@tmp", "__macosx",
    "__pycache__", "lost+found", "network trash folder", "recycler", "system volume information", "temporary items",
    ".appledouble", ".ipynb_checkpoints", ".@__thumb",
    "_background_noise_", "background_noise", "_noise_", "_silence_"}


def is_audio(name: str) -> bool:
    """Tell whether a file's name ends as audio does; hidden files (such as a Mac's "._x.wav") do not count."""
    return name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith(".")


def is_other_audio(name: str) -> bool:
    """Tell whether a file's name ends as audio of a kind that is not read."""
    return name.lower().endswith(OTHER_AUDIO_SUFFIXES) and not name.startswith(".")


def is_unknown(name: str) -> bool:
    """Tell whether a file's name says nothing of what it holds, so that it might be an utterance."""
    if name.startswith(".") or is_audio(name) or is_other_audio(name):
        return False
    stem, suffix = os.path.splitext(name.lower())
    return suffix not in NO_AUDIO_SUFFIXES and (bool(suffix) or stem not in NO_AUDIO_NAMES)


def is_nobody(name: str) -> bool:
    """Tell whether a folder's name is known to be no speaker's: a system's own, or one of noise."""
    return name.lower() in NOBODY


def by_name(paths: Iterable[str]) -> str:
    """Return the names of folders for a message, each once and with their number where there are several."""
    names = Counter(path.rpartition("/")[2] for path in paths)
    return ", ".join(f"{name} ({number} folders)" if number > 1 else name for name, number in sorted(names.items()))
