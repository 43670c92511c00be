"""List a competition kept as one array of frames: frames.npy and frames.csv, as in data/japanese_vowels.

Goes in: the folder. Comes out: its speakers and utterances, each with its place in frames.npy.
"""

import re
from pathlib import Path

from src.base.errors import InputError
from src.base.tables import read_csv
from src.base.text import shown
from src.competition.utterances import Folders, Utterance, check_paths


def list_frames(directory: Path, folders: Folders) -> tuple[str, int, list[str], list[Utterance]]:
    """Return the kind of feature, its dimension, the speakers in alphabetical order and the utterances."""
    import numpy as np  # a listing of any other kind needs none

    frames_path, table_path = directory / "frames.npy", directory / "frames.csv"
    try:
        frames = np.lib.format.open_memmap(frames_path, mode="r")  # np.load would also take a .npz or a pickle
    except Exception as error:  # a torn header leads numpy to almost any
        raise InputError(f"{frames_path}: not a readable .npy array ({error}); fetch the file again") from error
    if frames.offset + frames.nbytes != frames_path.stat().st_size:
        raise InputError(f"{frames_path}: its header says {frames.shape}, which is not what follows; fetch it again")
    if frames.ndim != 2 or frames.dtype != np.float32 or not frames.flags.c_contiguous or not frames.shape[1]:
        raise InputError(f"{frames_path}: {frames.dtype} of shape {frames.shape}; it must be float32 "
                         "(total_frames, feature_dim) in C order")
    utterances, first_frame = [], 0
    for line, row in read_csv(table_path, ("utt_id", "split", "speaker", "num_frames")).items():
        where = f"{table_path}: line {line}"
        if row["split"] not in ("train", "test") or bool(row["speaker"]) != (row["split"] == "train"):
            raise InputError(f"{where}: split {shown(row['split'])}, speaker {shown(row['speaker'])}; split is train "
                             "or test, and training utterances alone name their speaker")
        if not re.fullmatch(r"[1-9][0-9]{0,9}", row["num_frames"]):
            raise InputError(f"{where}: num_frames: {shown(row['num_frames'])} is not a whole number above 0; fetch "
                             "the file again")
        utterances.append(Utterance(row["utt_id"], frames_path.name, row["split"], row["speaker"],
                                    num_frames=int(row["num_frames"]), first_frame=first_frame))
        first_frame += utterances[-1].num_frames
    if first_frame != len(frames):
        raise InputError(f"{table_path}: num_frames: the utterances have {first_frame} frames, {frames_path.name} "
                         f"{len(frames)}; both files must be of the same competition")
    check_paths(folders, utterances[:1])
    utterances.sort(key=lambda utterance: utterance.split == "test")
    speakers = sorted({utterance.speaker for utterance in utterances if utterance.split == "train"})
    return "cepstra", frames.shape[1], speakers, utterances
