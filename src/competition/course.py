"""List a competition in the course's Kaggle format: metadata.json, mapping.json, testdata.json, one .pt an utterance.

Goes in: the folder. Comes out: its speakers in the mapping's order and its utterances in the tables' order; no .pt file
is opened.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from src.base.errors import InputError
from src.base.tables import get, read_json, whole
from src.base.text import shown, some
from src.competition.plain_paths import plain_paths
from src.competition.utterances import Folders, Utterance, check_paths


def list_course(directory: Path, folders: Folders) -> tuple[str, int, list[str], list[Utterance]]:
    """Return the kind of feature, its number of bands, the speakers by index and the utterances."""
    metadata_path, mapping_path, test_path = (directory / f"{name}.json"
                                              for name in ("metadata", "mapping", "testdata"))
    metadata = read_json(metadata_path)
    feature_dim = whole(metadata, "n_mels", metadata_path, 1)
    mapping = get(read_json(mapping_path), "speaker2id", dict, mapping_path)
    indices = list(mapping.values())
    if any(type(index) is not int for index in indices) or sorted(indices) != list(range(len(indices))):
        raise InputError(f"{mapping_path}: speaker2id: the {len(mapping)} speakers are not numbered "
                         f"0 to {len(mapping) - 1}, each number once; fetch the file again")
    speakers = sorted(mapping, key=mapping.__getitem__)
    utterances = []
    for speaker, entries in get(metadata, "speakers", dict, metadata_path).items():
        if speaker not in mapping:
            raise InputError(f"{metadata_path}: speakers: {shown(speaker)} is missing from speaker2id in "
                             f"{mapping_path.name}; both files must be of the same competition")
        utterances += _entries(entries, f"speakers.{some([speaker])}", metadata_path, "train", speaker)
    if test_path.exists():
        testdata = read_json(test_path)
        if whole(testdata, "n_mels", test_path, 1) != feature_dim:
            raise InputError(f"{test_path}: n_mels: {testdata['n_mels']}, but {metadata_path.name} says {feature_dim}; "
                             "both files must be of the same competition")
        tests = _entries(get(testdata, "utterances", list, test_path), "utterances", test_path, "test", "")
        if not tests:
            raise InputError(f"{test_path}: utterances: the list is empty; remove {test_path.name} where there is no "
                             "test part")
        utterances += tests
    paths = plain_paths([utterance.path for utterance in utterances], folders)
    for i, path in enumerate(paths):
        if path != utterances[i].path:
            utterances[i] = replace(utterances[i], utt_id=path, path=path)
    check_paths(folders, utterances)
    return "logmel", feature_dim, speakers, utterances


def _entries(entries: Any, key: str, path: Path, split: str, speaker: str) -> list[Utterance]:
    if not isinstance(entries, list):
        raise InputError(f"{path}: {key}: {shown(entries)} is not a list of utterances; fetch the file again")
    utterances = []
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f"{path}: {key}[{i}]: {shown(entry)} is not an object with feature_path and mel_len; "
                             "fetch the file again")
        name, num_frames = entry.get("feature_path"), entry.get("mel_len")
        if not isinstance(name, str) or type(num_frames) is not int or num_frames < 1:
            wrong = "feature_path" if not isinstance(name, str) else "mel_len"
            raise InputError(f"{path}: {key}[{i}].{wrong}: {shown(entry.get(wrong))} is not "
                             f"{'text' if wrong == 'feature_path' else 'a whole number above 0'}; fetch the file again")
        utterances.append(Utterance(name, name, split, speaker, "", "", num_frames))
    return utterances
