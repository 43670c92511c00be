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
    "an answer that could be several columns": (
        lambda d: write_table(d / "sample_submission.csv", [("Id", "a", "b"), ("t0.wav", "x", "y")]),
        r"sample_submission\.csv: the header 'Id,a,b' does not say which column the answer is; rename"),
    "semicolons": (lambda d: (d / "sample_submission.csv").write_text("Id;Category\nt0.wav;x\n"), "it with commas"),
    "a torn row": (lambda d: (d / "sample_submission.csv").write_text("Id,Category\nt0.wav\n"), r"line 2: 1 fields"),
    "an open quote": (lambda d: (d / "sample_submission.csv").write_text('Id,Category\n"t0.wav,a\n'),
                      r"not a valid .* CSV"),
    "a speaker without audio": (lambda d: (d / "train" / "dora").mkdir(), r"dora: no audio"),
    "training audio that is not read": (lambda d: (d / "train" / "bert" / "6.M4A").touch(),
                                        r"train/bert: 1 audio files of a kind that is not read: 6\.M4A; convert"),
    "test audio that is not read": (lambda d: (d / "test" / "t9.aiff").touch(),
                                    r"test: 1 audio files of a kind that is not read: t9\.aiff; convert"),
    "test audio of a telephone's kind": (lambda d: (d / "test" / "t9.3GP").touch(), r"not read: t9\.3GP; convert"),
    "speech that few programs read": (lambda d: (d / "train" / "anna" / "9.spx").touch(), r"not read: 9\.spx; convert"),
    "an id of a kind that is not read": (lambda d: [(d / "test" / "t9.w64").touch(), sample("t9.w64")(d)],
                                         r"not read: t9\.w64; convert them"),
    "other audio beside the speakers": (lambda d: (d / "train" / "9.amr").touch(), r"a speaker's folder: 9\.amr"),
    "audio two folders deeper": (lambda d: [(d / "train" / "anna" / "s" / "t").mkdir(parents=True),
                                            (d / "train" / "anna" / "s" / "t" / "x.wav").touch()],
                                 r"train/anna/s/t: audio in a folder within a speaker's"),
    "test files without endings": (lambda d: [p.rename(p.with_suffix("")) for p in (d / "test").iterdir()]
                                   and (d / "sample_submission.csv").unlink(),
                                   r"no audio .* in the test folder \(give t0, t1, t2, t3 the ending of their kind\)"),
    "flat audio and a table": (
        lambda d: [(d / "train" / "9.wav").touch(), write_table(d / "train.csv", [("file", "who"), ("9.wav", "x")])],
        r"or write utterances\.csv, .*; tables that may tell lie there: train\.csv \(file, who\)"),
    "two spellings": (lambda d: [(d / "train").rename(d / "Train"), (d / "TRAIN").mkdir()],
                      r"TRAIN and Train could both be train/; rename one to train"),
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


# What is understood ---------------------------------------------------------------------------------------------------


def content(competition):
    """Return what a competition's store is made of: every utterance and the bytes of its file."""
    return [(u.utt_id.split("/")[-1], u.speaker, u.split, (competition.directory / u.path).read_bytes())
            for u in competition.utterances]


def test_every_file_is_used_known_to_be_no_audio_or_named(audio_dir):
    plain = open_competition(audio_dir)
    assert plain.notices == ()
    for name in ("train/anna/9.wave", "train/anna/8.MPGA", "train/bert/7.oga"):
        (audio_dir / name).write_bytes((audio_dir / "train" / "anna" / "0.wav").read_bytes())
    for name in ("train/anna/0.lab", "train/notes.TXT", "test/README", "test/cover.jpg", "train/bert/.hidden.xyz"):
        (audio_dir / name).touch()
    competition = open_competition(audio_dir)
    assert {u.utt_id for u in competition.utterances} - {u.utt_id for u in plain.utterances} == {
        "train/anna/9.wave", "train/anna/8.MPGA", "train/bert/7.oga"}
    assert competition.notices == ()
    for name in ("train/anna/1.wav.part", "train/take2", "test/t9.xyz"):
        (audio_dir / name).touch()
    (line,) = open_competition(audio_dir).notices
    assert line.endswith("3 files: train/take2, train/anna/1.wav.part, test/t9.xyz; where they are recordings, give "
                         "them the ending of their kind")


def test_folders_that_are_nobodys_are_left_out_and_named(audio_dir):
    plain = content(open_competition(audio_dir))
    for folder in ("train/@eaDir", "train/anna/@eaDir", "train/_background_noise_", "train/.ipynb_checkpoints",
                   "test/__MACOSX", "__MACOSX", "train/lost+found"):
        (audio_dir / folder).mkdir()
        shutil.copy(audio_dir / "test" / "t0.wav", audio_dir / folder / "x.wav")
    competition = open_competition(audio_dir)
    assert content(competition) == plain
    (line,) = competition.notices
    assert (".ipynb_checkpoints, @eaDir (2 folders), __MACOSX, _background_noise_, lost+found; where they are "
            "speakers, list their files in utterances.csv") in line
    write_table(audio_dir / "utterances.csv", [("path",), ("train/_background_noise_/x.wav",), ("train/anna/0.wav",)])
    assert open_competition(audio_dir).speakers == ("_background_noise_", "anna")


def move_in(directory, *names):
    """Move everything in a folder into a folder within it."""
    inner = directory.joinpath(*names)
    held = [path for path in directory.iterdir()]
    inner.mkdir(parents=True)
    for path in held:
        path.rename(inner / path.name)


def capitals(directory):
    (directory / "train").rename(directory / "TRAIN")
    (directory / "test").rename(directory / "Test")


@pytest.mark.parametrize(("change", "said"), [
    (lambda d: move_in(d, "inner"), "toy_audio: the competition lies in {d}/inner, which is read"),
    (lambda d: [move_in(d, "a", "b"), (d / "__MACOSX").mkdir()], "lies in {d}/a/b, which is read"),
    (capitals, "TRAIN/ is read as train/ {d}: Test/ is read as test/"),
    (lambda d: [move_in(d / "train", "Train"), move_in(d / "test", "test")],
     "train/Train/ is read as train/ {d}: test/test/ is read as test/"),
], ids=["one level deeper", "two levels deeper", "capitals", "unpacked twice"])
def test_a_competition_that_was_unpacked_otherwise_is_understood(audio_dir, change, said):
    plain = open_competition(audio_dir)
    before = content(plain)
    change(audio_dir)
    competition = open_competition(audio_dir)
    assert (competition.name, competition.test_ids) == (plain.name, plain.test_ids)
    assert content(competition) == before
    assert said.format(d=audio_dir) in " ".join(competition.notices)


def test_the_courses_folder_may_lie_deeper_and_its_paths_be_a_windows_one_s(course_dir):
    plain = open_competition(course_dir)
    for name, change in (("metadata.json", lambda c: [e for s in c["speakers"].values() for e in s]),
                         ("testdata.json", lambda c: c["utterances"])):
        content = json.loads((course_dir / name).read_text())
        for entry in change(content):
            entry["feature_path"] = f"C:\\data\\Dataset\\{entry['feature_path']}"
        (course_dir / name).write_text(json.dumps(content))
    move_in(course_dir, "Dataset")
    competition = open_competition(course_dir)
    assert competition.utterances == plain.utterances
    assert "paths below C:/data/Dataset/ are read as paths in this folder" in " ".join(competition.notices)


@pytest.mark.parametrize("spell", [
    lambda d, path: path.replace("/", "\\"), lambda d, path: f"./{path}", lambda d, path: f".\\{path}",
    lambda d, path: f"{d}/{path}", lambda d, path: path.replace("/", "//"), lambda d, path: f"/content/toy/{path}",
    lambda d, path: f"toy_audio/{path}", lambda d, path: "D:\\toy\\" + path.replace("/", "\\"),
])
def test_paths_as_other_machines_write_them_are_understood(audio_dir, spell):
    paths = [f"train/{name}/{take}" for name in ("bert", "anna") for take in ("0.wav", "1.flac")]
    write_table(audio_dir / "utterances.csv", [("path", "group"), *((path, "g") for path in paths)])
    plain = open_competition(audio_dir)
    write_table(audio_dir / "utterances.csv", [("path", "group"), *((spell(audio_dir, path), "g") for path in paths)])
    assert open_competition(audio_dir).utterances == plain.utterances
    write_table(audio_dir / "utterances.csv", [("path", "label"), *((spell(audio_dir, p), "g") for p in paths),
                                               (spell(audio_dir, "train/anna/gone.wav"), "h")])
    with pytest.raises(InputError, match=r"gone\.wav.*missing|not a plain path|missing: .*gone"):
        open_competition(audio_dir)


def test_a_backslash_may_stand_in_a_name_and_nothing_outside_is_reached(audio_dir):
    shutil.copy(audio_dir / "train" / "anna" / "0.wav", audio_dir / "train" / "anna" / "a\\b.wav")
    write_table(audio_dir / "utterances.csv", [("path",), ("train/anna/a\\b.wav",), ("train/bert/0.wav",)])
    assert open_competition(audio_dir).utterances[0].path == "train/anna/a\\b.wav"
    shutil.copy(audio_dir / "test" / "t0.wav", audio_dir.parent / "secret.wav")
    above = audio_dir.parent
    for path in ("..\\secret.wav", f"{audio_dir}/../secret.wav", f"{above}/secret.wav", "train/../../secret.wav"):
        write_table(audio_dir / "utterances.csv", [("path", "label"), (path, "x"), ("train/bert/0.wav", "y")])
        with pytest.raises(InputError, match=r"not a plain path|are missing"):
            open_competition(audio_dir)


@pytest.mark.parametrize(("lay_out", "said"), [
    (lambda d: [shutil.copytree(d / "toy", d / name) for name in ("a", "b")], "did you mean {d}/a or {d}/b or {d}/toy"),
    (lambda d: (d / "toy" / "train").rename(d / "train_data"), r"train_data/ lies there: .*rename it to train"),
    (lambda d: [p.rename(d / p.name) for p in (d / "toy" / "train").iterdir()],
     r"audio lies in anna, bert, carl, as in a corpus: `bash run\.sh make-competition {d} data/NAME`"),
    (lambda d: [(d / name).touch() for name in ("wav.scp", "utt2spk")], r"tables of Kaldi .*make-competition {d} data"),
    (lambda d: [(d / "cv").mkdir(), (d / "cv" / "validated.tsv").touch()], r"Common Voice's tables .*-competition {d}"),
    (lambda d: [(d / name).touch() for name in ("1.wav", "2.mp3")], r"2 audio files lie in no speaker's folder: put"),
    (lambda d: (d / "hw4.zip").touch(), r"hw4\.zip lies there: unpack it first"),
], ids=["two competitions", "another name", "a corpus", "Kaldi", "Common Voice", "flat", "an archive"])
def test_a_folder_that_is_no_competition_is_told_what_lies_there(audio_dir, tmp_path, lay_out, said):
    outer = tmp_path / "outer"
    outer.mkdir()
    audio_dir.rename(outer / "toy")
    lay_out(outer)
    if (outer / "toy").exists() and "did you mean" not in said:
        shutil.rmtree(outer / "toy")
    with pytest.raises(InputError, match="no competition is recognised here; " + said.format(d=outer)):
        open_competition(outer)


# The submission's form ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "rows"), [
    (("Id", "Label"), [("{}.wav", "")]), (("id", "expected"), [("{}.wav", "")]), (("file", "speaker"), [("{}", "x")]),
    (("row", "Id", "Category"), [("7", "test/{}.wav", "anna")]), (("Category", "ID"), [("anna", ".\\test\\{}.wav")]),
])
def test_the_sample_is_the_form(audio_dir, header, rows):
    order = ("t2", "t0", "t3", "t1")
    rows = [tuple(cell.format(name) for cell in rows[0]) for name in order]
    write_table(audio_dir / "sample_submission.csv", [header, *rows])
    competition = open_competition(audio_dir)
    assert competition.test_ids == [f"{name}.wav" for name in order]
    assert competition.form.columns == header
    answer = header.index(competition.form.names[1])
    filled = list(competition.form.filled({f"{name}.wav": name.upper() for name in order}))
    assert filled == [[*row[:answer], name.upper(), *row[answer + 1 :]] for name, row in zip(order, rows)]


def test_a_sample_by_another_name_and_of_another_kind_is_a_form_where_its_ids_are_known(audio_dir, course_dir):
    plain = content(open_competition(audio_dir))
    (audio_dir / "sample_submission.csv").rename(audio_dir / "sampleSubmission.csv")
    competition = open_competition(audio_dir)
    assert competition.test_ids == ["t0.wav", "t1.wav", "t2.wav", "t3.wav"], "the store's order is no other than before"
    assert [row[0] for row in competition.form.filled(dict.fromkeys(competition.test_ids, "x"))] == [
        "t2.wav", "t0.wav", "t3.wav", "t1.wav"]
    assert sorted(content(competition)) == sorted(plain)
    ids = open_competition(course_dir).test_ids
    write_table(course_dir / "sample_submission.csv", [("Id", "Label"), *((name, "anna") for name in ids[::-1])])
    competition = open_competition(course_dir)
    assert (competition.test_ids, competition.form.columns, competition.form.ids) == (ids, ("Id", "Label"), ids[::-1])
    write_table(course_dir / "sample_submission.csv", [("Id", "Label"), ("other", "anna")])
    competition = open_competition(course_dir)
    assert competition.form.columns == ("Id", "Category")
    assert "1 of 1 have no file" in competition.notices[0]
    assert "The submission is written as Id,Category in the test part's own order" in competition.notices[0]


def test_an_id_may_name_a_file_without_an_ending(audio_dir):
    for path in (audio_dir / "test").iterdir():
        path.rename(path.with_suffix(""))
    write_table(audio_dir / "sample_submission.csv", [("Id", "Category"), *((f"t{i}", "anna") for i in (2, 0, 3, 1))])
    assert open_competition(audio_dir).test_ids == ["t2", "t0", "t3", "t1"]
