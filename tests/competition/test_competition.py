"""Competitions: what is listed, in which order, and one clear error for everything that is wrong."""

import json
import os
import shutil
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from src.base.errors import InputError, SettingError
from src.base.workspace import PROJECT_DIR
from src.competition.open import open_competition
from tests.support.competitions import write_table


def test_the_embedded_default_is_the_official_split():
    competition = open_competition("japanese_vowels")
    assert competition.speakers == tuple("123456789")
    train = [u for u in competition.utterances if u.split == "train"]
    assert [u.speaker for u in train] == [str(1 + i // 30) for i in range(270)]
    assert competition.test_ids == [f"test_{i:03d}" for i in range(370)]
    assert {u.speaker for u in competition.utterances if u.split == "test"} == {""}
    assert (competition.kind, competition.feature_kind, competition.feature_dim) == ("frames", "cepstra", 12)
    first = np.load(competition.directory / "frames.npy")[0]
    assert first[:3] == pytest.approx([1.860936, -0.207383, 0.261557])  # the official file's first line
    assert competition.solution_path.name == "solution.csv"


def test_the_course_format_keeps_its_mapping_and_its_order(course_dir):
    competition = open_competition(course_dir)
    assert (competition.kind, competition.feature_kind, competition.feature_dim) == ("course", "logmel", 40)
    assert competition.speakers == ("carl", "anna", "bert")
    metadata, testdata = (json.loads((course_dir / f"{name}.json").read_text()) for name in ("metadata", "testdata"))
    assert [(u.speaker, u.utt_id, u.num_frames) for u in competition.utterances if u.split == "train"] == [
        (name, e["feature_path"], e["mel_len"]) for name, entries in metadata["speakers"].items() for e in entries]
    assert competition.test_ids == [e["feature_path"] for e in testdata["utterances"]]


def test_audio_folders_name_the_speakers_and_the_sample_gives_the_order(audio_dir):
    (audio_dir / "train" / "anna" / "notes.txt").write_text("not audio")
    (audio_dir / "train" / "anna" / "._0.wav").write_text("a Mac's shadow of 0.wav")
    competition = open_competition(audio_dir)
    assert (competition.kind, competition.feature_kind, competition.feature_dim) == ("audio", "waveform", None)
    assert competition.speakers == ("anna", "bert", "carl")
    assert len(competition.utterances) == 22
    assert competition.utterances[0].path == competition.utterances[0].utt_id == "train/anna/0.wav"
    assert competition.test_ids == ["t2.wav", "t0.wav", "t3.wav", "t1.wav"]
    (audio_dir / "sample_submission.csv").unlink()
    assert open_competition(audio_dir).test_ids == ["t0.wav", "t1.wav", "t2.wav", "t3.wav"]
    shutil.rmtree(audio_dir / "test")
    assert not open_competition(audio_dir).has_test


def test_utterances_csv_overrides_the_folders(audio_dir):
    write_table(audio_dir / "utterances.csv", [("path", "label", "group", "text"),
                                               ("train/bert/1.flac", "m", "bert", "HE, SAID"),
                                               ("train/anna/0.wav", "f", "anna", "")])
    competition = open_competition(audio_dir)
    assert competition.speakers == ("f", "m")
    train = [(u.path, u.speaker, u.group, u.text) for u in competition.utterances if u.split == "train"]
    assert train == [("train/bert/1.flac", "m", "bert", "HE, SAID"), ("train/anna/0.wav", "f", "anna", "")]
    assert len(competition.test_ids) == 4
    write_table(audio_dir / "utterances.csv", [("path",), ("train/bert/1.flac",), ("train/anna/0.wav",)])
    assert open_competition(audio_dir).speakers == ("anna", "bert")


def test_the_folder_may_be_a_link_and_its_name_is_made_safe(audio_dir, tmp_path):
    (tmp_path / "my data (1)").symlink_to(audio_dir)
    competition = open_competition(tmp_path / "my data (1)")
    assert competition.name == "my_data_1"
    assert len(competition.utterances) == 22


def test_listing_imports_nothing_heavy(course_dir):
    code = (f"import sys\nfrom src.competition.open import open_competition\nopen_competition({str(course_dir)!r})\n"
            "import src.preprocess\nprint({'torch', 'numpy', 'pandas', 'sklearn'} & set(sys.modules))")
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT_DIR)
    assert output.stdout.strip() == "set()"


def edit(name, change):
    """Return a mutation of a JSON file: `change` gets its content."""
    def mutate(directory):
        content = json.loads((directory / name).read_text())
        change(content)
        (directory / name).write_text(json.dumps(content))
    return mutate


def set_in(*keys_and_value):
    """Return a change that sets content[key][key]… to the last value."""
    *keys, last, value = keys_and_value

    def change(content):
        for key in keys:
            content = content[key]
        content[last] = value
    return change


COURSE_FAULTS = {
    "speaker missing from the mapping": (edit("mapping.json", lambda c: c.update(speaker2id={"carl": 0, "bert": 1})),
                                         r"metadata\.json: speakers: 'anna' is missing .*mapping\.json"),
    "torn JSON": (lambda d: (d / "metadata.json").write_text('{"n_mels": 40, "spe'), r"metadata\.json: not valid JSON"),
    "not UTF-8": (lambda d: (d / "mapping.json").write_bytes(b'{"\xff": 0}'), r"mapping\.json: not valid JSON"),
    "deep JSON": (lambda d: (d / "testdata.json").write_text("[" * 10**6), r"testdata\.json: not valid JSON"),
    "a list": (lambda d: (d / "testdata.json").write_text("[]"), r"testdata\.json: \[\] is not an object"),
    "no n_mels": (edit("metadata.json", lambda c: c.pop("n_mels")), r"metadata\.json: the key 'n_mels' is missing"),
    "n_mels as text": (edit("metadata.json", set_in("n_mels", "40")), r"n_mels: '40' is not a whole number"),
    "n_mels differ": (edit("testdata.json", set_in("n_mels", 80)), r"testdata\.json: n_mels: 80, but .* says 40"),
    "speakers as a list": (edit("metadata.json", set_in("speakers", [])), r"speakers: \[\] is not an object"),
    "no mel_len": (edit("metadata.json", lambda c: c["speakers"]["bert"][1].pop("mel_len")),
                   r"speakers\.bert\[1\]\.mel_len: None is not"),
    "mel_len true": (edit("testdata.json", set_in("utterances", 0, "mel_len", True)),
                     r"utterances\[0\]\.mel_len: True"),
    "path as a number": (edit("testdata.json", set_in("utterances", 2, "feature_path", 7)), r"\[2\]\.feature_path: 7"),
    "entry as text": (edit("testdata.json", set_in("utterances", 2, "x.pt")), r"utterances\[2\]: 'x\.pt' is not"),
    "empty test list": (edit("testdata.json", set_in("utterances", [])), r"utterances: the list is empty"),
    "path traversal": (edit("testdata.json", set_in("utterances", 0, "feature_path", "../secret.pt")),
                       r"'\.\./secret\.pt'"),
    "absolute path": (edit("testdata.json", set_in("utterances", 0, "feature_path", "/etc/passwd")), r"'/etc/passwd'"),
    "newline in an id": (edit("testdata.json", set_in("utterances", 0, "feature_path", "a\nb.pt")), r"'a\\nb\.pt'"),
    "twice the same id": (edit("testdata.json", lambda c: c["utterances"].append(c["utterances"][0])),
                          r"stands there twice"),
    "index used twice": (edit("mapping.json", set_in("speaker2id", "bert", 1)), r"not numbered\s+0 to 2"),
    "index as text": (edit("mapping.json", set_in("speaker2id", "bert", "2")), r"not numbered\s+0 to 2"),
    "missing file": (lambda d: next(d.glob("*.pt")).unlink(), r"1 of 22 files are missing: uttr-\w+\.pt; fetch"),
    "only one speaker": (edit("metadata.json", lambda c: c.update(speakers={"bert": c["speakers"]["bert"]})),
                         r"only one speaker, 'bert'"),
    "no training utterances": (edit("metadata.json", set_in("speakers", {})), r"no training utterances"),
    "a link that leaves": (lambda d: relink(d, next(d.glob("*.pt"))), r"a symlink that leaves the competition"),
    "no mapping": (lambda d: (d / "mapping.json").unlink(),
                   r"looked for metadata\.json \(found\), mapping\.json \(missing\)"),
}


def relink(directory, path):
    """Move a file or folder out of the competition and link to it."""
    path.rename(directory.parent / "elsewhere")
    path.symlink_to(directory.parent / "elsewhere")


@pytest.mark.parametrize(("mutate", "message"), COURSE_FAULTS.values(), ids=COURSE_FAULTS)
def test_faults_of_the_course_format(course_dir, mutate, message):
    mutate(course_dir)
    with pytest.raises(InputError, match=message):
        open_competition(course_dir)


def sample(*ids, header="Id"):
    return lambda d: write_table(d / "sample_submission.csv", [(header, "Category"), *((i, "anna") for i in ids)])


def listed(*rows):
    return lambda d: write_table(d / "utterances.csv", rows)


def both_normal_forms(directory):
    for form in ("NFC", "NFD"):
        shutil.copytree(directory / "train" / "anna", directory / "train" / unicodedata.normalize(form, "Zoë"))


def spelled_otherwise(directory):
    (directory / "test" / "t0.wav").rename(directory / "test" / unicodedata.normalize("NFD", "tü.wav"))
    sample(unicodedata.normalize("NFC", "tü.wav"), "t1.wav", "t2.wav", "t3.wav")(directory)


AUDIO_FAULTS = {
    "an id in another Unicode form": (spelled_otherwise, "1 of 4 have no file in test/: .*rename them to the Ids"),
    "empty test folder": (lambda d: [p.unlink() for p in (d / "test").iterdir()],
                          r"no audio .* in the test folder; put"),
    "an id without a file": (sample("t0.wav", "t1.wav", "t2.wav", "t3.wav", "t9.wav"),
                             r"1 of 5 have no file in test/: t9"),
    "a file without an id": (sample("t0.wav", "t1.wav"), r"2 of 4 files in test/ are not listed: t2\.wav, t3\.wav"),
    "an id twice": (sample("t0.wav", "t1.wav", "t2.wav", "t3.wav", "t0.wav"), r"'t0\.wav' stands there twice"),
    "no Id column": (sample("t0.wav", header="id"), r"sample_submission\.csv: the header 'id,Category' lacks Id"),
    "a torn row": (lambda d: (d / "sample_submission.csv").write_text("Id,Category\nt0.wav\n"), r"line 2: 1 fields"),
    "an open quote": (lambda d: (d / "sample_submission.csv").write_text('Id,Category\n"t0.wav,a\n'),
                      r"not a valid .* CSV"),
    "a speaker without audio": (lambda d: (d / "train" / "dora").mkdir(), r"dora: no audio"),
    "training audio that is not read": (lambda d: (d / "train" / "bert" / "6.M4A").touch(),
                                        r"train/bert: 1 audio files of a kind that is not read: 6\.M4A; convert"),
    "test audio that is not read": (lambda d: (d / "test" / "t9.aiff").touch(),
                                    r"test: 1 audio files of a kind that is not read: t9\.aiff; convert"),
    "a folder of test audio": (lambda d: [(d / "test" / "more").mkdir(), (d / "test" / "more" / "t9.wav").touch()],
                               r"test/more: audio in a folder within test/"),
    "names equal after NFC": (both_normal_forms, r"speaker 'Zoë' stands there twice"),
    "a control character": (lambda d: (d / "train" / "bert").rename(d / "train" / "be\trt"),
                            r"'be\\trt': empty, or with"),
    "a linked speaker": (lambda d: relink(d, d / "train" / "bert"), r"train/bert: a symlink that leaves"),
    "a mistyped column": (listed(("path", "lable"), ("train/anna/0.wav", "x")),
                          r"unknown column 'lable'; did you mean 'label'"),
    "no path column": (listed(("label",), ("x",)), r"lacks path"),
    "no rows": (listed(("path", "label")), r"the table has no rows"),
    "a file that is not there": (listed(("path", "label"), ("train/anna/x.wav", "a"), ("train/bert/0.wav", "b")),
                                 r"1 of 2 files are missing: train/anna/x\.wav"),
    "a listed traversal": (listed(("path", "label"), ("train/../../x.wav", "a")), r"not a plain path"),
    "a listed test file": (listed(("path", "label"), ("test/t0.wav", "a")), r"line 2: path: 'test/t0\.wav' is a test"),
    "an empty label below empty lines": (lambda d: (d / "utterances.csv").write_text(
        'path,label\n\n"train/anna/0.wav","a"\n\n\ntrain/anna/1.wav,""\n'), r"line 6: label: none"),
    "an empty label": (listed(("path", "label"), ("train/anna/0.wav", "")), r"line 2: label: none"),
}


@pytest.mark.parametrize(("mutate", "message"), AUDIO_FAULTS.values(), ids=AUDIO_FAULTS)
def test_faults_of_an_audio_folder(audio_dir, mutate, message):
    mutate(audio_dir)
    with pytest.raises(InputError, match=message):
        open_competition(audio_dir)


FRAMES_FAULTS = {
    "other number of frames": (lambda d: np.save(d / "frames.npy", np.zeros((9, 4), np.float32)),
                               r"have .* frames.npy 9"),
    "other type": (lambda d: np.save(d / "frames.npy", np.zeros((322, 4))), r"float64 of shape .* must be float32"),
    "objects": (lambda d: np.save(d / "frames.npy", np.array([{}], object), allow_pickle=True),
                r"not a readable \.npy"),
    "torn": (lambda d: os.truncate(d / "frames.npy", 200), r"not a readable \.npy"),
    "a labelled test utterance": (lambda d: replace(d, "test_0,test,,", "test_0,test,anna,"),
                                  r"training utterances alone"),
    "zero frames": (lambda d: replace(d, "test_0,test,,6", "test_0,test,,0"), r"line 20: num_frames: '0' is not"),
}


def replace(directory, old, new):
    path = directory / "frames.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(("mutate", "message"), FRAMES_FAULTS.values(), ids=FRAMES_FAULTS)
def test_faults_of_embedded_frames(frames_dir, mutate, message):
    mutate(frames_dir)
    with pytest.raises(InputError, match=message):
        open_competition(frames_dir)


def test_what_is_no_competition_is_said_with_what_was_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"looked for metadata\.json \(missing\).*frames\.npy.*train \(missing\)"):
        open_competition(tmp_path)
    with pytest.raises(SettingError, match="did you mean 'japanese_vowels'"):
        open_competition("japanese_vowel")
