"""make-competition: layouts, honest splits, what the folder holds, and that it is whole or absent."""

import argparse
import csv
import itertools
import os
import re
import shutil
from collections import Counter

import numpy as np
import pytest
import soundfile

from src.apps.make_competition import command
from src.apps.make_competition import make as module
from src.apps.make_competition import split as speaker_split
from src.apps.make_competition.corpus import open_corpus
from src.apps.make_competition.make import make_competition
from src.apps.make_competition.split import Split
from src.base.errors import InputError, RunError, SettingError
from src.competition.open import open_competition
from src.submit import local_score
from tests.support.competitions import voice, write_audio, write_table


def put(path, speaker=0, take=0, seconds=0.2):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, voice(speaker, take, seconds))


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def libri(tmp_path):
    """A corpus as LibriSpeech lays it out: 4 speakers x 4 chapters x 3 utterances, and what does not belong."""
    for s, c, u in itertools.product(range(4), range(4), range(3)):
        speaker, chapter = 10 + s, 100 + 4 * s + c
        put(tmp_path / f"libri/dev/{speaker}/{chapter}/{speaker}-{chapter}-{u:04d}.flac", s, 10 * c + u)
    put(tmp_path / "libri" / "intro.wav")
    (tmp_path / "libri" / "dev" / "10" / "100" / "10-100.trans.txt").write_text("10-100-0000 HELLO\n")
    return tmp_path / "libri"


# What the folder holds ------------------------------------------------------------------------------------------------


def test_a_session_is_never_on_both_sides_and_the_solution_is_right(libri, tmp_path):
    sources = {path.read_bytes(): path for path in libri.rglob("*.flac")}
    out = make_competition(libri, tmp_path / "out")
    competition = open_competition(out)
    assert competition.speakers == ("10", "11", "12", "13")
    solution = {row["Id"]: row for row in read(out / "solution.csv")}
    assert set(solution) == set(competition.test_ids) == {path.name for path in (out / "test").iterdir()}
    sides = {"train": set(), "test": set()}
    for u in competition.utterances:
        source = sources[(out / u.path).read_bytes()]  # every file is another
        assert os.path.samefile(source, out / u.path)  # linked, and the corpus keeps its own
        assert (u.speaker or solution[u.utt_id]["Category"]) == source.parent.parent.name
        sides[u.split].add(source.parent)
        if u.split == "train":
            assert u.group == f"{source.parent.parent.name}/{source.parent.name}"
        else:
            assert re.fullmatch(r"[0-9a-f]{16}\.flac", u.utt_id)
    assert not sides["train"] & sides["test"]
    assert {name: len({p.parent for p in sessions}) for name, sessions in sides.items()} == {"train": 4, "test": 4}
    assert Counter(row["Usage"] for row in solution.values()) == {"Public": 6, "Private": 6}
    assert {row["Category"] for row in read(out / "sample_submission.csv")} == {"10"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["libri", "out"]


def test_the_local_score_finds_the_solution(libri, tmp_path):
    competition = open_competition(make_competition(libri, tmp_path / "out"))
    rows = [(row["Id"], row["Category"]) for row in read(competition.solution_path)]
    write_table(tmp_path / "perfect.csv", [("Id", "Category"), *rows])
    write_table(tmp_path / "sample.csv", [("Id", "Category"), *((utt_id, "10") for utt_id, _ in rows)])
    assert local_score(competition, tmp_path / "perfect.csv")[:3] == (1.0, 1.0, 1.0)
    assert local_score(competition, tmp_path / "sample.csv").total == 0.25


def test_the_numbers_asked_for_are_exact_and_the_seed_decides_the_rest(libri, tmp_path):
    def content(name, **options):
        out = make_competition(libri, tmp_path / name, **options)
        return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    numbers = {"train_per_speaker": 5, "test_per_speaker": 4, "num_speakers": 3}
    first = content("a", **numbers, seed=3)
    competition = open_competition(tmp_path / "a")
    assert Counter(u.speaker for u in competition.utterances if u.split == "train") == dict.fromkeys(
        competition.speakers, 5)
    assert len(competition.speakers) == 3
    assert Counter(row["Category"] for row in read(tmp_path / "a" / "solution.csv")) == dict.fromkeys(
        competition.speakers, 4)
    assert content("b", **numbers, seed=3) == first
    assert content("c", **numbers, seed=4) != first
    shutil.rmtree(libri / "dev" / "10")
    every = content("d", train_per_speaker=5, test_per_speaker=4, seed=3)  # who else takes part changes no one's split
    own = tuple(f"train/{speaker}/" for speaker in {"11", "12", "13"}.intersection(competition.speakers))
    assert {path for path in every if path.startswith(own)} == {path for path in first if path.startswith(own)}


def test_a_shifted_test_part_says_which_utterances_went_through_what(libri, tmp_path, capsys):
    out = make_competition(libri, tmp_path / "out", shift=True, test_per_speaker=5)
    solution = {row["Id"]: row["Category"] for row in read(out / "solution.csv")}
    conditions = {row["Id"]: row["condition"] for row in read(out / "conditions.csv")}
    assert list(conditions) == list(solution) == open_competition(out).test_ids
    assert Counter(conditions.values()) == {"as recorded": 6, "mixed": 8, "equaliser": 1, "noise": 1, "babble": 1,
                                            "reverberation": 1, "telephone": 1, "bitrate": 1}
    assert "as recorded 6, mixed 8," in capsys.readouterr().out
    sources = {}
    for path in libri.rglob("*.flac"):
        waveform = soundfile.read(path)[0]
        sources.setdefault(path.parent.parent.name, []).append(waveform / np.abs(waveform).max() * 10 ** (-3 / 20))
    for name, condition in conditions.items():
        waveform, rate = soundfile.read(out / "test" / name)
        nearest = min(np.abs(waveform - other).max() for other in sources[solution[name]])
        assert rate == 16000
        assert (nearest < 1e-4) == (condition == "as recorded"), condition
    again = make_competition(libri, tmp_path / "again", shift=True, test_per_speaker=5)
    assert all((again / "test" / name).read_bytes() == (out / "test" / name).read_bytes() for name in conditions)


def test_copies_and_unusable_test_files_are_left_out_and_counted(libri, tmp_path, capsys, monkeypatch):
    (libri / "dev" / "10" / "100" / "10-100-0009.flac").write_bytes(
        (libri / "dev" / "10" / "101" / "10-101-0000.flac").read_bytes())
    for path in (libri / "dev" / "13").rglob("*-0001.flac"):
        os.truncate(path, 300)
    out = make_competition(libri, tmp_path / "out", test_per_speaker=3)
    printed = capsys.readouterr().out
    assert "left out: 1 files that are copies of others" in printed
    assert re.search(r"left out: 1 of 12 test files that cannot be used:\n  /.*13-\d+-0001\.flac: cannot be", printed)
    assert len(read(out / "solution.csv")) == len(list((out / "test").iterdir())) == 11
    monkeypatch.setattr(module, "UNUSABLE_HANDFUL", 0)
    with pytest.raises(InputError, match=r"1 of 12 files drawn for the test cannot be used; unpack the corpus again"):
        make_competition(libri, tmp_path / "other", test_per_speaker=3)


# The split ------------------------------------------------------------------------------------------------------------


def test_splits_by_sessions_are_found_whenever_there_are_any():
    rng = np.random.default_rng(0)
    found = Counter()
    for _ in range(300):
        sizes = rng.integers(1, 6, rng.integers(1, 6)).tolist()
        recordings = [module.Recording(None, "x", f"s{i}", f"{k}") for i, size in enumerate(sizes) for k in range(size)]
        num_train, num_test = ((None, None), tuple(rng.integers(1, 8, 2).tolist()))[int(rng.integers(2))]
        split = speaker_split._split(recordings, num_train, num_test, rng)
        subsets = [sum(c) for n in range(len(sizes) + 1) for c in itertools.combinations(sizes, n)]
        possible = [s for s in subsets if s >= (num_test or 1) and sum(sizes) - s >= (num_train or 1)]
        found[isinstance(split, Split)] += 1
        assert isinstance(split, Split) == bool(possible), (sizes, num_train, num_test)
        if possible:
            assert not {r.session for r in split.train} & {r.session for r in split.test}
            if num_test:
                assert (len(split.train), len(split.test)) == (num_train, num_test)
            else:
                wanted = max(1, round(0.2 * sum(sizes)))
                assert len(split.train) + len(split.test) == sum(sizes)
                assert abs(len(split.test) - wanted) == min(abs(s - wanted) for s in possible)
    assert min(found.values()) > 40


def test_groups_are_left_out_where_folds_could_not_be_made_of_sessions(libri, tmp_path, capsys):
    out = make_competition(libri, tmp_path / "out", num_speakers=3)  # nine training sessions
    assert set(read(out / "utterances.csv")[0]) == {"path", "label"}
    assert "folds will split sessions, which flatters" in capsys.readouterr().out


# Layouts --------------------------------------------------------------------------------------------------------------


def tables(folder, speakers, paths):
    folder.mkdir(exist_ok=True)
    (folder / "utt2spk").write_text("".join(f"{utt_id}\t{speaker}\n" for utt_id, speaker in speakers.items()))
    (folder / "wav.scp").write_text("".join(f"{utt_id}\t{path}\n" for utt_id, path in paths.items()))


def speechocean(root):
    for speaker in (1, 2):
        put(root / "WAVE" / f"SPEAKER000{speaker}" / f"{speaker}7.WAV")


def speechocean_with_tables(root):
    speechocean(root)
    for part, speaker in (("train", 1), ("test", 2)):
        path = f"WAVE/SPEAKER000{speaker}/{speaker}7.WAV"
        tables(root / part, {f"{speaker}7": f"000{speaker}"}, {f"{speaker}7": path})


def voxceleb(root):
    put(root / "vox1" / "wav" / "id10001" / "a-Xy_1" / "00001.wav")
    put(root / "vox1" / "wav" / "id10002" / "b" / "00001.wav")
    put(root / "samples" / "a.wav")


def own(root):
    put(root / "Zoë" / "day 1" / "phone" / "a.mp3")
    put(root / "Zoë" / "b.ogg")
    put(root / "bert" / "a.opus")
    put(root / "bert" / "._a.wav")
    put(root / "elsewhere.wav")
    (root / "bert" / "b.M4A").write_bytes(b"of another kind")
    for name in ("Zoë/c.xyz", "take", "bert/b.lab"):
        (root / name).touch()
    (root / "bert" / "loop").symlink_to(root)


@pytest.mark.parametrize(("lay_out", "expected", "num_strays"), [
    (speechocean, {("SPEAKER0001", "", "17.WAV"), ("SPEAKER0002", "", "27.WAV")}, 0),
    (speechocean_with_tables, {("0001", "", "17.wav"), ("0002", "", "27.wav")}, 0),
    (voxceleb, {("id10001", "a-Xy_1", "00001.wav"), ("id10002", "b", "00001.wav")}, 1),
    (own, {("Zoë", "day 1/phone", "a.mp3"), ("Zoë", "", "b.ogg"), ("bert", "", "a.opus")}, 1),
], ids=lambda value: getattr(value, "__name__", ""))
def test_layouts(tmp_path, lay_out, expected, num_strays):
    lay_out(tmp_path / "corpus")
    (tmp_path / "link").symlink_to(tmp_path / "corpus")
    corpus = open_corpus(tmp_path / "link")
    assert {(r.speaker, r.session, r.name) for r in corpus.recordings} == expected
    assert corpus.num_strays == num_strays
    assert corpus.others == ({".m4a": 1} if lay_out is own else {})
    assert corpus.unknown == ({".xyz": 1, "no ending": 1} if lay_out is own else {})
    assert all(recording.path.is_file() for recording in corpus.recordings)


def test_a_corpus_without_sessions_needs_no_table(tmp_path):
    for speaker, take in itertools.product(range(3), range(5)):
        put(tmp_path / "own" / f"s, {speaker}" / f"{take}.wav", speaker, take)
    out = make_competition(tmp_path / "own", tmp_path / "out", test_per_speaker=2)
    assert not (out / "utterances.csv").exists()
    assert len(list((out / "train" / "s, 1").iterdir())) == 3
    assert Counter(row["Category"] for row in read(out / "solution.csv")) == {"s, 0": 2, "s, 1": 2, "s, 2": 2}


# What is refused ------------------------------------------------------------------------------------------------------


def few(root):
    for speaker, takes in (("a", 5), ("b", 2), ("c", 2)):
        for take in range(takes):
            put(root / speaker / f"{take}.wav", ord(speaker), take)


def one_session_each(root):
    for speaker, take in itertools.product("abc", range(3)):
        put(root / speaker / "s1" / f"{take}.wav", ord(speaker), take)


def twice(root):
    for part in ("p1", "p2"):
        put(root / part / "id10001" / "v" / "1.wav")


def of_a_command(root):
    tables(root, {"1": "a"}, {"1": "sph2pipe x.sph |"})


def convertible(root):
    (root / "a").mkdir()
    (root / "a" / "x.m4a").touch()


REFUSED = {
    "too few": (few, {"train_per_speaker": 2, "test_per_speaker": 2},
                r"1 speakers can be split, 2 are needed; 2 of 3 speakers with fewer than 2 \+ 2 utterances: b, c\."),
    "too few speakers": (few, {"num_speakers": 4}, r"3 speakers can be split, 4 are needed"),
    "one session": (one_session_each, {}, r"0 speakers .* 3 of 3 speakers with one session only: a, b, c"),
    "not unique": (twice, {}, r"p[12]/id10001/v/1\.wav: the same speaker, session and name as"),
    "parts without speakers": (lambda root: put(root / "train" / "x.wav"), {},
                               r"folders are named train, which are no speakers; where they are, give --speaker-le"),
    "no folders": (lambda root: put(root / "x.wav"), {}, r"1 audio files lie in no speaker's folder"),
    "empty": (lambda root: None, {}, r"no audio \(\.wav.* give the folder that holds the speakers"),
    "other audio": (convertible, {}, r"1 files end in \.m4a: convert them first"),
    "a command": (of_a_command, {}, r"'1' is the output of a command, which is not run"),
    "a missing file": (lambda root: tables(root, {"1": "a"}, {"1": "x.wav"}), {}, r"1 of 1 files that wav\.scp names"),
    "no speaker": (lambda root: tables(root, {"2": "a"}, {"1": "x.wav"}), {}, r"'1' has no speaker in utt2spk"),
    "a name that leaves": (lambda root: (put(root / "x.wav"), tables(root, {"1": "../.."}, {"1": "x.wav"})), {},
                           r"x\.wav: '\.\./\.\./1\.wav' cannot be the name"),
    "a folder's own name": (lambda root: (put(root / "x.wav"), tables(root, {"1": ".."}, {"1": "x.wav"})), {},
                            r"x\.wav: '\.\./1\.wav' cannot be the name"),
    "a control character": (lambda root: put(root / "a\tb" / "x.wav"), {}, r"'a\\tb/x\.wav' cannot be the name"),
}


@pytest.mark.parametrize(("lay_out", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_a_competition_is_refused_with_counts(tmp_path, lay_out, options, message):
    (tmp_path / "corpus").mkdir()
    lay_out(tmp_path / "corpus")
    with pytest.raises(InputError, match=message):
        make_competition(tmp_path / "corpus", tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_settings_that_make_no_sense_are_refused(libri, tmp_path):
    (tmp_path / "there").symlink_to("nowhere")
    for corpus, out, options, message in (
        (libri, tmp_path / "there", {}, "exists already; name another folder"),
        (libri, libri / "dev" / "out", {}, "lies within the corpus"),
        (tmp_path / "nothing", tmp_path / "out", {}, "no such folder"),
        (libri, tmp_path / "out", {"train_per_speaker": 0}, "--train-per-speaker 0: must be at least 1"),
        (libri, tmp_path / "out", {"num_speakers": 1}, "--speakers 1: must be at least 2"),
        (libri, tmp_path / "out", {"seed": -1}, "--seed -1: must be at least 0"),
    ):
        with pytest.raises(SettingError, match=message):
            make_competition(corpus, out, **options)


def test_out_is_whole_or_absent(libri, tmp_path, monkeypatch):
    (tmp_path / ".out.partial" / "train").mkdir(parents=True)  # as a kill leaves it
    (tmp_path / ".out.partial" / "train" / "stale").touch()
    table, before = module._table, sorted(libri.rglob("*"))
    for error, expected in ((KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left"), RunError)):
        def failing(path, *rest, error=error):
            if path.name == "solution.csv":
                raise error
            table(path, *rest)
        monkeypatch.setattr(module, "_table", failing)
        with pytest.raises(expected):
            make_competition(libri, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["libri"]
    monkeypatch.setattr(module, "_table", table)
    out = make_competition(libri, tmp_path / "out")
    assert not (out / "train" / "stale").exists()
    assert sorted(libri.rglob("*")) == before


def test_files_are_copied_where_they_cannot_be_linked(libri, tmp_path, monkeypatch, capsys):
    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")
    monkeypatch.setattr(os, "link", refuse)
    out = make_competition(libri, tmp_path / "out")
    assert "0 training files linked, 36 copied" in capsys.readouterr().out
    path = next((out / "train").rglob("*.flac"))
    (source,) = libri.rglob(path.name)
    assert path.read_bytes() == source.read_bytes()
    assert not os.path.samefile(path, source)


def test_the_command_ends_with_what_to_run_next(libri, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.main(parser.parse_args([str(libri), str(tmp_path / "my out"), "--speakers", "2", "--seed", "5"]))
    assert capsys.readouterr().out.endswith(f"{tmp_path}/my out\nnext: bash run.sh --data '{tmp_path}/my out'\n")


def test_a_speaker_of_two_parts_is_one_and_keeps_both_files_of_one_name(tmp_path):
    for folder, speaker in itertools.product(("TRAIN", "TEST"), ("ann", "bob")):
        put(tmp_path / "corpus" / folder / speaker / "1.wav")
    names = {(r.speaker, r.session, r.name) for r in open_corpus(tmp_path / "corpus").recordings}
    assert names == {(speaker, "", f"{part}-1.wav") for part in ("TRAIN", "TEST") for speaker in ("ann", "bob")}


def test_a_lone_folder_around_the_speakers_is_no_speaker(tmp_path):
    for speaker in ("ann", "bob"):
        put(tmp_path / "corpus" / "wav48_silence_trimmed" / speaker / "1.wav")
    assert {recording.speaker for recording in open_corpus(tmp_path / "corpus").recordings} == {"ann", "bob"}


# Where the speakers stand, and who is nobody --------------------------------------------------------------------------


@pytest.fixture
def genders(tmp_path):
    """A corpus of four speakers below their genders' folders, five utterances each."""
    for n, folder in enumerate(("Male/M00", "Male/M01", "Female/F00", "Female/F01")):
        for take in range(5):
            put(tmp_path / "corpus" / folder / f"{take}.wav", n, take)
    return tmp_path / "corpus"


def test_the_level_of_the_speakers_is_printed_and_can_be_set(genders, tmp_path, capsys):
    out = make_competition(genders, tmp_path / "out")
    assert open_competition(out).speakers == ("F00", "F01", "M00", "M01")
    printed = capsys.readouterr().out
    assert "20 utterances of 4 speakers at the second level: F00, F01, M00, M01 (speaker/file)" in printed
    assert "Female, Male are taken for no speakers; if they are, give --speaker-level 1" in printed
    out = make_competition(genders, tmp_path / "set", speaker_level=1)
    assert open_competition(out).speakers == ("Female", "Male")
    assert "2 speakers at the first level: Female, Male" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"no audio lies below a folder at level 3; the deepest .* stand at level 2"):
        make_competition(genders, tmp_path / "deep", speaker_level=3)
    with pytest.raises(SettingError, match="--speaker-level 0: must be at least 1"):
        make_competition(genders, tmp_path / "zero", speaker_level=0)


def test_folders_that_are_nobodys_are_left_out_and_named(genders, tmp_path, capsys):
    for folder in ("_background_noise_", "other", "Male/@eaDir", "Male/M00/@eaDir", "__MACOSX", "lost+found", "Noise"):
        put(genders / folder / "x.wav", 5, len(folder))
    out = make_competition(genders, tmp_path / "out")
    assert open_competition(out).speakers == ("F00", "F01", "M00", "M01")
    assert not list(out.rglob("x.wav"))
    line = next(line for line in capsys.readouterr().out.splitlines() if "no speaker's" in line)
    assert line.endswith("no speaker's: @eaDir (2 folders), Noise, __MACOSX, _background_noise_, lost+found, other")
    shutil.rmtree(genders / "_background_noise_")
    assert open_corpus(genders, level=1).speakers == ["Female", "Male", "other"], "alone it may be a name"


# Tables ---------------------------------------------------------------------------------------------------------------


def clips(folder, number=15):
    """Put clips of three speakers into a folder, and return [(clip, speaker)]."""
    rows = []
    for n in range(number):
        put(folder / f"clip_{n}.mp3", n % 3, n)
        rows.append((f"clip_{n}.mp3", f"client{n % 3}"))
    return rows


def test_common_voice_is_read_by_its_table(tmp_path, capsys):
    rows = clips(tmp_path / "cv" / "en" / "clips")
    put(tmp_path / "cv" / "en" / "clips" / "unlisted.mp3", 0, 99)
    lines = ["client_id\tpath\tsentence", *(f'{speaker}\t{clip}\tSAY "{clip}' for clip, speaker in rows),
             "client0\tgone.mp3\t"]
    (tmp_path / "cv" / "en" / "validated.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "cv" / "en" / "invalidated.tsv").write_text("client_id\tpath\nnobody\tunlisted.mp3\n")
    competition = open_competition(make_competition(tmp_path / "cv", tmp_path / "out"))
    assert competition.speakers == ("client0", "client1", "client2")
    assert len(competition.utterances) == 15
    truth = dict(rows)
    assert all(u.speaker == truth[u.path.split("/")[-1]] for u in competition.utterances if u.split == "train")
    printed = capsys.readouterr().out
    assert "15 utterances of 3 speakers in the column client_id of validated.tsv" in printed
    assert "left out: 1 files outside that layout" in printed
    assert "left out: 1 rows whose file is not there" in printed


def test_flat_audio_is_read_by_a_table_of_speakers_or_a_line_says_how(tmp_path):
    rows = clips(tmp_path / "flat" / "audio")
    with pytest.raises(InputError, match=r"15 audio files lie in no speaker's folder.*; write a table speakers\.csv"):
        make_competition(tmp_path / "flat", tmp_path / "out")
    write_table(tmp_path / "flat" / "meta.csv", [("clip", "who"), *rows])
    with pytest.raises(InputError, match=r"not understood: meta\.csv \(clip, who\); write a table speakers\.csv"):
        make_competition(tmp_path / "flat", tmp_path / "out")
    write_table(tmp_path / "flat" / "speakers.csv",
                [("path", "speaker"), *((f"audio\\{clip}", speaker) for clip, speaker in rows)])
    out = make_competition(tmp_path / "flat", tmp_path / "out")
    assert open_competition(out).speakers == ("client0", "client1", "client2")
    write_table(tmp_path / "flat" / "speakers.csv", [("path", "speaker"), *rows, (rows[0][0], "client1")])
    with pytest.raises(InputError, match=r"speakers\.csv: line 17: clip_0\.mp3 is of 'client1', and of 'client0' "):
        make_competition(tmp_path / "flat", tmp_path / "other")


def segments(root, lines):
    """Lay out Kaldi's tables of four recordings of two speakers, and `lines` of segments."""
    for n in range(4):
        put(root / "wav" / f"r{n}.wav", n // 2, n, 1.0)
    utterances = {line.split()[0]: f"spk{int(line.split()[1][1:]) // 2}" for line in lines}
    tables(root, utterances, {f"r{n}": f"wav/r{n}.wav" for n in range(4)})
    (root / "segments").write_text("".join(f"{line}\n" for line in lines))


def test_segments_of_recordings_are_cut_and_a_recording_is_never_on_both_sides(tmp_path):
    root = tmp_path / "kaldi"
    segments(root, [f"u{n}-{k} r{n} {0.2 * k:.2f} {'-1' if k == 3 else f'{0.2 * k + 0.15:.2f}'}"
                    for n in range(4) for k in range(4)])
    out = make_competition(root, tmp_path / "out")
    competition = open_competition(out)
    assert competition.speakers == ("spk0", "spk1")
    assert [len([u for u in competition.utterances if u.split == split]) for split in ("train", "test")] == [8, 8]
    for u in competition.utterances:
        if u.split == "train":
            n, k = int(u.path[-8]), int(u.path[-6])
            assert u.path == f"train/spk{n // 2}/r{n}/u{n}-{k}.flac"
            whole, part = soundfile.read(root / "wav" / f"r{n}.wav")[0], soundfile.read(out / u.path)[0]
            stop = 16000 if k == 3 else round(16000 * (0.2 * k + 0.15))
            np.testing.assert_allclose(part, whole[3200 * k : stop], atol=2e-5)
    assert not (out / ".parts").exists()


@pytest.mark.parametrize(("line", "said"), [
    ("x r0 0.5 0.2", "'x': from 0.5 to 0.2 s is no part of a recording"), ("x r0 0.1", "is not a recording with start"),
    ("x r9 0 1", "1 recordings are not in wav.scp: r9"), ("x r0 0 9", r"r0\.wav: 1\.00 s long, and segments has 'x' "),
])
def test_segments_that_cannot_be_cut_are_refused(tmp_path, line, said):
    segments(tmp_path / "kaldi", [line, *(f"u{n}-{k} r{n} 0 0.{k + 1}" for n in range(4) for k in range(4))])
    with pytest.raises(InputError, match=said):
        make_competition(tmp_path / "kaldi", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["kaldi"]


def test_the_channels_of_a_telephone_call_are_not_mixed(tmp_path):
    segments(tmp_path / "kaldi", [f"u{n} r{n} 0 0.5" for n in range(4)])
    (tmp_path / "kaldi" / "reco2file_and_channel").write_text("r0 r0 A\nr1 r0 B\n")
    with pytest.raises(InputError, match="r1 are second channels of their files; write each channel to a file of"):
        make_competition(tmp_path / "kaldi", tmp_path / "out")
