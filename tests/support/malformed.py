"""Malformed competitions by generators with seeds, and a server that reads each in a process of its own.

A kind takes a sound competition (a copy, see `bases`) and spoils it with a generator's draws. It returns what may
become of it. `python malformed.py` is the server: a line of JSON in (competition, workspace, seconds), one out.
"""

import contextlib
import csv
import ctypes
import io
import json
import os
import pickle
import resource
import select
import shutil
import signal
import struct
import sys
import time
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SPEAKERS = ("anna", "bert", "carl")
TAKES = ("0.wav", "1.flac", "2.opus", "3.ogg", "4.mp3", "5.wav")
TESTS = ("t0.wav", "t1.flac", "t2.opus", "t3.ogg")
EMPTY_CASE = {"refused", "skipped", "unchanged"}


@dataclass
class Case:
    """What may become of a spoilt competition: refused, skipped (listed, all else as it was), unchanged or changed.

    touched: the utterances that may be skipped, or, where "changed" is allowed, hold something else. renamed: {old id:
    new id}. relabelled: {id: speaker}. extra: {id: (speaker, number of frames or None)} that the sound one lacks.
    gone: ids that are rightly not there any more.
    """

    outcomes: set[str] = field(default_factory=lambda: set(EMPTY_CASE))
    touched: set[str] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)
    relabelled: dict[str, str] = field(default_factory=dict)
    extra: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    seconds: float = 120.0  # of a hang, on however busy a machine


REFUSED, UNCHANGED = {"refused"}, {"unchanged"}
KINDS: dict[str, tuple[str, Callable[[Path, np.random.Generator], Case]]] = {}  # name: (base, function)
LARGE = {"table of 10^6 rows", "listed 10^6 rows", "5,000 speakers", "an hour", "10^6 speakers in JSON"}


def kind(base: str, name: str = "") -> Callable:
    """Register a kind that spoils a copy of `base`."""

    def register(function):
        KINDS[name or function.__name__.replace("_", " ")] = base, function
        return function

    return register


# Sound competitions ---------------------------------------------------------------------------------------------------


def voice(speaker: int, take: int, seconds: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng([speaker, take])
    time_s = np.arange(int(seconds * 16000)) / 16000
    pitch = 110 * 1.5**speaker * rng.uniform(0.97, 1.03)
    waveform = sum(np.sin(2 * np.pi * pitch * k * time_s + rng.uniform(0, 6)) / k for k in range(1, 8))
    return (0.1 * waveform + 0.005 * rng.standard_normal(len(time_s))).astype(np.float32)


def write_audio(path: Path, waveform: np.ndarray, rate: int = 16000, subtype: str | None = None) -> None:
    import soundfile

    format_, coding = {".ogg": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS")}.get(path.suffix, (None, subtype))
    soundfile.write(path, waveform, rate, format=format_, subtype=coding)


def write_table(path: Path, rows: list[tuple]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def bases(folder: Path) -> None:
    """Write the sound competitions: folder/audio, folder/course and folder/frames."""
    import torch

    audio, course, frames = (folder / name for name in ("audio", "course", "frames"))
    for i, speaker in enumerate(SPEAKERS):
        (audio / "train" / speaker).mkdir(parents=True)
        for take, name in enumerate(TAKES):
            write_audio(audio / "train" / speaker / name, voice(i, take))
    (audio / "test").mkdir()
    for take, name in enumerate(TESTS):
        write_audio(audio / "test" / name, voice(take % 3, 10 + take))
    write_table(audio / "sample_submission.csv", [("Id", "Category"), *((name, "anna") for name in TESTS[::-1])])

    rng = np.random.default_rng(0)
    course.mkdir()

    def entry(name: str) -> dict:
        num_frames = int(rng.integers(8, 20))
        torch.save(torch.from_numpy(rng.standard_normal((num_frames, 40)).astype(np.float32)), course / name)
        return {"feature_path": name, "mel_len": num_frames}

    metadata = {"n_mels": 40, "speakers": {s: [entry(f"uttr-{s}{k}.pt") for k in range(6)] for s in SPEAKERS}}
    (course / "metadata.json").write_text(json.dumps(metadata))
    (course / "testdata.json").write_text(
        json.dumps({"n_mels": 40, "utterances": [entry(f"uttr-test{k}.pt") for k in range(4)]})
    )
    (course / "mapping.json").write_text(
        json.dumps(
            {
                "speaker2id": {s: i for i, s in enumerate(SPEAKERS)},
                "id2speaker": {str(i): s for i, s in enumerate(SPEAKERS)},
            }
        )
    )

    frames.mkdir()
    table = [(f"train_{i}", "train", SPEAKERS[i % 3], 5 + i) for i in range(18)]
    table += [(f"test_{i}", "test", "", 6 + i) for i in range(4)]
    write_table(frames / "frames.csv", [("utt_id", "split", "speaker", "num_frames"), *table])
    np.save(frames / "frames.npy", rng.standard_normal((sum(row[3] for row in table), 12)).astype(np.float32))


# Damage to bytes ------------------------------------------------------------------------------------------------------


def pick_audio(directory: Path, rng: np.random.Generator, suffix: str) -> tuple[Path, str]:
    """Return an audio file with this ending, of either side, and its id."""
    files = sorted(p for p in directory.rglob(f"*{suffix}") if p.is_file())
    path = files[rng.integers(len(files))]
    relative = path.relative_to(directory).as_posix()
    return path, relative.removeprefix("test/")


def rewrite(path: Path, change: Callable[[bytearray], bytes | bytearray]) -> None:
    path.write_bytes(change(bytearray(path.read_bytes())))


def flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Flip 1 to 20 bits."""
    for _ in range(int(rng.choice([1, 1, 2, 20]))):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return data


def cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(1, len(data)))]


def zeroed(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Lose a block, as a bad sector does."""
    first = int(rng.integers(len(data)))
    data[first : first + 512] = bytes(len(data[first : first + 512]))
    return data


def scrambled_start(data: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(4):
        data[rng.integers(min(64, len(data)))] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)]))
    return data


DAMAGE = {"bits flipped": flip, "truncated": cut, "a block lost": zeroed, "start scrambled": scrambled_start}


def register_audio_damage() -> None:
    for suffix in (".wav", ".flac", ".opus", ".ogg", ".mp3"):
        for name, damage in DAMAGE.items():

            def spoil(directory, rng, suffix=suffix, damage=damage):
                path, utt_id = pick_audio(directory, rng, suffix)
                rewrite(path, lambda data: damage(data, rng))
                unmarked = suffix in (".wav", ".mp3")  # nothing in these formats tells a changed sample
                return Case(EMPTY_CASE | ({"changed"} if unmarked else set()), {utt_id})

            KINDS[f"{suffix[1:]}: {name}"] = "audio", spoil


register_audio_damage()


@kind("audio", "wav: absurd header")
def absurd_header(directory, rng):
    path, utt_id = pick_audio(directory, rng, ".wav")
    extremes = (0, 1, 2, 3, 255, 1024, 65535, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)

    def change(data):
        for _ in range(rng.integers(1, 3)):
            position, size = ((4, 4), (16, 4), (20, 2), (22, 2), (24, 4), (28, 4), (32, 2), (34, 2), (40, 4))[
                rng.integers(9)
            ]
            data[position : position + size] = struct.pack("<Q", int(rng.choice(extremes)))[:size]
        return data

    rewrite(path, change)
    return Case(EMPTY_CASE | {"changed"}, {utt_id})


@kind("audio", "not audio at all")
def not_audio(directory, rng):
    path, utt_id = pick_audio(directory, rng, str(rng.choice([".wav", ".flac", ".opus", ".ogg", ".mp3"])))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.wav", b"RIFF")
    path.write_bytes(
        [
            b"",
            b"\0",
            b"RIFF",
            b"OggS",
            b"fLaC",
            b"<html>404 Not Found</html>",
            bytes(4096),
            rng.bytes(3000),
            archive.getvalue(),
            b"version https://git-lfs.github.com/spec/v1\n",
            b"ID3" + rng.bytes(500),
            b"OggS" + rng.bytes(300),
            b"fLaC" + rng.bytes(300),
        ][rng.integers(13)]
    )
    return Case({"refused", "skipped"}, {utt_id})


@kind("audio", "NaN and infinite samples")
def not_finite(directory, rng):
    path, utt_id = pick_audio(directory, rng, ".wav")
    waveform = voice(0, 0)
    waveform[rng.integers(len(waveform), size=rng.integers(1, 50))] = rng.choice([np.nan, np.inf, -np.inf])
    write_audio(path, waveform, subtype=str(rng.choice(["FLOAT", "DOUBLE"])))
    return Case({"refused", "skipped"}, {utt_id})


@kind("audio", "a wrong header, all of the sound")
def wrong_header(directory, rng):
    path, _ = pick_audio(directory, rng, ".wav")
    size = path.stat().st_size

    def change(data):
        length, stated = [(size - 8, size - 8), (size + 36, size), (size - 8, size - 43), (size - 8, 2 * size),
                          (size - 8, (size - 44) // 2), (size - 8, 0), (0, 0)][rng.integers(7)]
        data[4:8], data[40:44] = struct.pack("<I", length), struct.pack("<I", stated)
        return data

    rewrite(path, change)
    return Case(set(UNCHANGED))


@kind("audio", "flac of another total")
def other_total(directory, rng):
    path, _ = pick_audio(directory, rng, ".flac")

    def change(data):
        stated = int.from_bytes(data[18:26])
        total = (0, 1, stated % (1 << 36) - 1, stated % (1 << 36) + 1, (1 << 36) - 1)[rng.integers(5)]
        data[18:26] = (stated >> 36 << 36 | total).to_bytes(8)
        return data

    rewrite(path, change)
    return Case(set(UNCHANGED))


@kind("audio", "joined files")
def joined(directory, rng):
    suffix = str(rng.choice([".wav", ".flac", ".opus", ".ogg", ".mp3"]))
    path, utt_id = pick_audio(directory, rng, suffix)
    other = pick_audio(directory, rng, suffix)[0].read_bytes()
    if rng.random() < 0.5:
        rewrite(path, lambda data: data + other)
        return Case({"changed"}, {utt_id})
    rewrite(path, lambda data: data + other[: len(other) // 2])
    return Case({"refused", "skipped"}, {utt_id})


@kind("audio", "tags around it")
def tags(directory, rng):
    path, _ = pick_audio(directory, rng, str(rng.choice([".flac", ".mp3"])))
    size = int(rng.integers(1, 60_000))
    art = b"ID3\3\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + rng.bytes(size)
    rewrite(path, lambda data: art + data + (b"TAG".ljust(128, b"x") if rng.random() < 0.5 else b""))
    return Case(set(UNCHANGED))


@kind("audio", "an inverted channel")
def inverted(directory, rng):
    import soundfile

    path, _ = pick_audio(directory, rng, ".wav")
    samples = soundfile.read(path, dtype="int16")[0]
    write_audio(path, np.stack([samples, -samples], 1))
    return Case(set(UNCHANGED))


@kind("audio", "odd rates and channels")
def odd_rate(directory, rng):
    path, utt_id = pick_audio(directory, rng, ".wav")
    rate = int(rng.choice([1, 2, 100, 3999, 4000, 8000, 11025, 15991, 47952, 44100, 96000, 1 << 20, (1 << 31) - 1]))
    channels = int(rng.choice([1, 2, 6, 64, 65, 255]))
    write_audio(path, np.repeat(voice(0, 0)[:, None], channels, 1), rate)
    return Case(EMPTY_CASE | {"changed"}, {utt_id})


@kind("audio", "hardly a sample")
def hardly_a_sample(directory, rng):
    path, utt_id = pick_audio(directory, rng, str(rng.choice([".wav", ".flac", ".opus", ".ogg", ".mp3"])))
    number = int(rng.integers(0, 3))
    write_audio(path, np.full(number, 0.1, np.float32))
    return Case({"refused", "skipped"} if number == 0 else EMPTY_CASE | {"changed"}, {utt_id})


@kind("audio", "loud and silent")
def loud_and_silent(directory, rng):
    path, utt_id = pick_audio(directory, rng, ".wav")
    write_audio(path, voice(0, 0) * np.float32(rng.choice([0.0, 1e-30, 1e30])), subtype="FLOAT")
    return Case({"unchanged", "changed"}, {utt_id})


@kind("audio", "sparse terabytes")
def sparse(directory, rng):
    path, _ = pick_audio(directory, rng, str(rng.choice([".wav", ".flac"])))
    os.truncate(path, 1 << int(rng.integers(34, 42)))
    return Case(set(REFUSED))


@kind("audio", "an hour")
def hour(directory, rng):
    write_audio(directory / "train" / "anna" / "hour.flac", np.zeros(3600 * 16000, np.int16))
    return Case(set(UNCHANGED), extra={"train/anna/hour.flac": ("anna", 360_001)}, seconds=600)


# Names, links and what lies there -------------------------------------------------------------------------------------

NAMES = (
    'q"uote',
    "com,ma",
    "new\nline",
    "tab\t",
    "nul-like\x01",
    " lead",
    "trail ",
    "-rf",
    "$(touch evil)",
    "`id`",
    "=1+1",
    "ü" * 60,
    "\u202egnp",
    "\u2028x",
    "a" * 240,
    "c\\d",
    "e'f",
    "%s",
    "{x}",
    "\udcff",
    "é",
    "e\u0301",
    "CON",
    "a;b",
    "#",
    "\ufeffx",
    "\x85y",
    "\x1b[31mred",
)


@kind("audio", "odd speaker names")
def odd_speaker(directory, rng):
    name = str(rng.choice(NAMES))
    (directory / "train" / "bert").rename(directory / "train" / name)
    renamed = {f"train/bert/{take}": f"train/{name}/{take}" for take in TAKES}
    return Case({"refused", "unchanged"}, renamed=renamed, relabelled=dict.fromkeys(renamed.values(), name))


@kind("audio", "odd file names")
def odd_file(directory, rng):
    name = str(rng.choice(NAMES)) + ".wav"
    if rng.random() < 0.5:
        (directory / "train" / "bert" / "0.wav").rename(directory / "train" / "bert" / name)
        return Case({"refused", "unchanged"}, renamed={"train/bert/0.wav": f"train/bert/{name}"})
    (directory / "test" / "t0.wav").rename(directory / "test" / name)
    if any("\ud800" <= c <= "\udfff" for c in name) or rng.random() < 0.3:
        (directory / "sample_submission.csv").unlink()
    else:
        write_table(directory / "sample_submission.csv", [("Id", "Category"), *((n, "x") for n in (*TESTS[1:], name))])
    return Case({"refused", "unchanged"}, renamed={"t0.wav": name})


@kind("audio", "two normal forms of a name")
def normal_forms(directory, rng):
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "Zoë")
        if rng.random() < 0.5:
            shutil.copytree(directory / "train" / "anna", directory / "train" / name)
        else:
            shutil.copy(directory / "test" / "t0.wav", directory / "test" / f"{name}.wav")
    names = sorted(p.name for p in (directory / "test").iterdir())
    write_table(directory / "sample_submission.csv", [("Id", "Category"), *((n, "x") for n in names)])
    both = (
        len({unicodedata.normalize("NFC", n) for n in names}) < len(names)
        or len(list((directory / "train").iterdir())) == 5
    )
    extra = {f"{n}": ("", None) for n in names if n not in TESTS}
    extra |= {
        f"train/{p.name}/{take}": (p.name, None)
        for p in (directory / "train").iterdir()
        for take in TAKES
        if p.name not in SPEAKERS
    }
    return Case(set(REFUSED if both else UNCHANGED), extra=extra)


@kind("audio", "hidden and other files")
def hidden(directory, rng):
    for folder in ("", "train", "train/anna", "test"):
        for name in rng.choice(["._0.wav", ".DS_Store", "Thumbs.db", "notes.txt", ".hidden.wav", "0.wav.part"], 2):
            (directory / folder / name).write_bytes(rng.bytes(30))
    (directory / "train" / ".cache").mkdir()
    return Case(set(UNCHANGED))


@kind("audio", "folders that are nobody's")
def nobodys(directory, rng):
    for place in rng.choice(["train", "train/anna", "test", "."], 3):
        name = str(rng.choice(["@eaDir", "@EADIR", "__MACOSX", "lost+found", "_background_noise_", "#recycle"]))
        (directory / place / name).mkdir(exist_ok=True)
        write_audio(directory / place / name / "x.wav", voice(2, 88))
    return Case(set(UNCHANGED))


@kind("audio", "files of other and of unknown kinds")
def other_kinds(directory, rng):
    place = directory / str(rng.choice(["train", "train/anna", "test", "train/bert/deeper"]))
    place.mkdir(exist_ok=True)
    is_other = rng.random() < 0.5
    name = str(rng.choice(["9.3gp", "9.SPX", "9.w64", "9.aiff"] if is_other else ["9.xyz", "9", "9.part", "9.wav~"]))
    write_audio(place / "9.wav", voice(2, 88))
    (place / "9.wav").rename(place / name)
    return Case(set(REFUSED if is_other else UNCHANGED))


@kind("audio", "unpacked otherwise")
def unpacked(directory, rng):
    if rng.random() < 0.5:
        held = list(directory.iterdir())
        inner = directory.joinpath(*["inner", "data", "x"][: int(rng.integers(1, 5))])
        inner.mkdir(parents=True)
        for path in held:
            path.rename(inner / path.name)
        return Case(set(UNCHANGED))
    part = str(rng.choice(["Train", "TRAIN", "train/train", "train/Train"]))
    (directory / "train").rename(directory / "moved")
    (directory / part).parent.mkdir(exist_ok=True)
    (directory / "moved").rename(directory / part)
    return Case(set(UNCHANGED), renamed={f"train/{s}/{t}": f"{part}/{s}/{t}" for s in SPEAKERS for t in TAKES})


@kind("audio", "links")
def links(directory, rng):
    outside = directory.parent / "outside"
    place = directory / str(rng.choice(["train/anna/9.wav", "test/t9.wav", "train/dora", "test/sub"]))
    target = (
        outside / "secret.wav",
        outside,
        "/etc/passwd",
        "/dev/zero",
        "/",
        "nowhere.wav",
        place.name,
        "..",
        "../../../secret.wav",
    )[rng.integers(9)]
    place.symlink_to(target)
    return Case({"refused", "unchanged"})


@kind("audio", "a linked table")
def linked_table(directory, rng):
    name = str(rng.choice(["utterances.csv", "sample_submission.csv", "solution.csv"]))
    (directory / name).unlink(missing_ok=True)
    outside = directory.parent / "outside"
    (directory / name).symlink_to((outside / "table.csv", "/etc/passwd", "/dev/zero", name, "nowhere")[rng.integers(5)])
    return Case(set(REFUSED))


@kind("audio", "a pipe")
def pipe(directory, rng):
    path = directory / str(
        rng.choice(
            [
                "utterances.csv",
                "sample_submission.csv",
                "solution.csv",
                "train/anna/0.wav",
                "test/t1.flac",
                "train/9.wav",
                "metadata.json",
                "mapping.json",
                "test",
                "pipe",
            ]
        )
    )
    if path.name == "test":
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return Case(set(UNCHANGED if path.name == "pipe" else REFUSED))


@kind("audio", "unreadable")
def unreadable(directory, rng):
    path = directory / str(
        rng.choice(["train/anna/0.wav", "test/t0.wav", "train", "train/bert", "test", "sample_submission.csv", "."])
    )
    path.chmod(0)
    return Case(set(REFUSED))


@kind("audio", "empty folders")
def empty_folders(directory, rng):
    place = str(rng.choice(["train", "test", "train/bert", "train/dora", "train/.hidden", "."]))
    shutil.rmtree(directory / place, ignore_errors=True)
    (directory / place).mkdir()
    return Case(set(UNCHANGED if place == "train/.hidden" else REFUSED))


@kind("audio", "files at the wrong depth")
def wrong_depth(directory, rng):
    place = directory / str(rng.choice(["train/x.wav", "train/bert/s1/x.wav", "train/bert/0.wav"]))
    if place.exists():
        place.unlink()
        (place / "x").mkdir(parents=True)
        return Case(set(UNCHANGED), gone={"train/bert/0.wav"})  # a folder named so: nothing says it should be a file
    place.parent.mkdir(exist_ok=True)
    write_audio(place, voice(0, 0))
    return Case(set(REFUSED))


@kind("audio", "one speaker")
def one_speaker(directory, rng):
    for speaker in rng.permutation(SPEAKERS)[:2]:
        shutil.rmtree(directory / "train" / speaker)
    return Case(set(REFUSED))


@kind("audio", "5,000 speakers")
def many_speakers(directory, rng):
    source = directory / "train" / "anna" / "0.wav"
    extra = {}
    for i in range(5000):
        path = directory / "train" / f"s{i:04d}" / "0.wav"
        path.parent.mkdir()
        os.link(source, path)
        extra[f"train/s{i:04d}/0.wav"] = f"s{i:04d}", 31
    return Case(set(UNCHANGED), extra=extra, seconds=600)


# Tables of audio ------------------------------------------------------------------------------------------------------

BAD_PATHS = (
    "../outside/secret.wav",
    "train/../../outside/secret.wav",
    "/etc/passwd",
    "train//anna/0.wav",
    "./train/anna/0.wav",
    "train/anna/../anna/0.wav",
    "train/anna/",
    "",
    "train/anna/nope.wav",
    "train\\anna\\0.wav",
    "train/anna/0.wav\n",
    "a" * 5000,
    "a/" * 3000 + "x.wav",
    "\0",
    "~/x.wav",
    "file:///etc/passwd",
    "train",
    "test/t0.wav",
    "../" * 30,
)


@kind("audio", "sample_submission.csv with bad ids")
def bad_sample(directory, rng):
    ids = list(TESTS)
    bad = str(rng.choice([p for p in BAD_PATHS if p != "test/t0.wav"]))
    match int(rng.integers(4)):
        case 0:
            ids.append(bad)
        case 1:
            ids[rng.integers(4)] = bad
        case 2:
            ids.append(ids[rng.integers(4)])
        case 3:
            ids.pop()
    write_table(directory / "sample_submission.csv", [("Id", "Category"), *((i, "x") for i in ids)])
    return Case(set(REFUSED))


@kind("audio", "sample_submission.csv as other bytes")
def torn_sample(directory, rng):
    path = directory / "sample_submission.csv"
    change = [
        lambda d: d[: rng.integers(len(d) - 12)],
        lambda d: b"",
        lambda d: d.replace(b"\r\n", b"\n"),
        lambda d: b"\xef\xbb\xbf" + d,
        lambda d: d.decode().encode("utf-16"),
        lambda d: rng.bytes(200),
        lambda d: d.replace(b"Id", b"ID"),
        lambda d: d.replace(b"Id,", b"Id,Id,"),
        lambda d: d + b'"open',
        lambda d: d.replace(b"anna", b"x" * 200_000, 1),
        lambda d: d + b"\0",
        lambda d: d.replace(b",", b";"),
        lambda d: d.replace(b"t0", b"\xff0"),
        lambda d: d.replace(b"\r\n", b"\r"),
    ][rng.integers(14)]
    rewrite(path, change)
    return Case({"refused", "unchanged"})


@kind("audio", "utterances.csv with bad paths")
def bad_listing(directory, rng):
    rows = [(f"train/{s}/{t}", s) for s in SPEAKERS for t in TAKES]
    at, bad = int(rng.integers(len(rows))), str(rng.choice(BAD_PATHS))
    if rng.random() < 0.3:
        rows.append(rows[at])
    else:
        rows[at] = bad, "anna"
    write_table(directory / "utterances.csv", [("path", "label"), *rows])
    meant = len({"/".join(p for p in path.replace("\\", "/").split("/") if p not in ("", ".")) for path, _ in rows})
    return Case({"refused", "unchanged"} if meant == len(rows) and ".." not in bad else set(REFUSED))


@kind("audio", "utterances.csv of another machine")
def foreign_paths(directory, rng):
    heads = ["", "./", "/content/drive/x/", "C:\\x\\", f"{directory}/", "competition/", "/../", "~/", "//"]
    head = str(rng.choice(heads))
    paths = [head + f"train/{s}/{t}" for s in SPEAKERS for t in TAKES]
    if rng.random() < 0.5:
        paths = [path.replace("/", "\\") for path in paths]
    if rng.random() < 0.3:
        paths[rng.integers(len(paths))] = "/etc/passwd"
    labels = [path.replace("\\", "/").split("/")[-2] for path in paths]
    write_table(directory / "utterances.csv", [("path", "label"), *zip(paths, labels)])
    is_strange = "/etc/passwd" in paths or ".." in head
    return Case(set(REFUSED if is_strange else UNCHANGED))


@kind("audio", "sample_submission.csv of another form")
def other_form(directory, rng):
    spell = str(rng.choice(["{}", "test/{}", "./{}", ".\\test\\{}", "/content/test/{}", "train/{}", "../{}"]))
    header = (("Id", "Label"), ("id", "x"), ("file", "speaker"), ("Id", "a", "b"), ("Id",))[rng.integers(5)]
    rows = [(spell.format(name), "x", "y")[: len(header)] for name in TESTS]
    write_table(directory / "sample_submission.csv", [header, *rows])
    return Case(set(REFUSED if "train" in spell or ".." in spell or len(header) > 2 else UNCHANGED))


@kind("audio", "utterances.csv with odd labels")
def odd_labels(directory, rng):
    odd = str(rng.choice([n for n in NAMES if n != "\udcff"]))
    rows = [(f"train/{s}/{t}", odd if s == "bert" else s, "g,1", 'SAYS "X"\n') for s in SPEAKERS for t in TAKES]
    write_table(directory / "utterances.csv", [("path", "label", "group", "text"), *rows])
    return Case({"refused", "unchanged"}, relabelled={f"train/bert/{take}": odd for take in TAKES})


@kind("audio", "utterances.csv with a bad header")
def bad_header(directory, rng):
    header = (
        ("path", "lable"),
        ("path", "path"),
        ("label",),
        ("path", "label", "label"),
        ("PATH", "label"),
        ("path,label",),
        ("", ""),
        ("path", "label", "x" * 100_000),
        ("path", "\x1b[31m"),
    )[rng.integers(9)]
    write_table(directory / "utterances.csv", [header, *((f"train/{s}/{t}", s) for s in SPEAKERS for t in TAKES)])
    return Case(set(REFUSED))


@kind("audio", "table of 10^6 rows")
def million_ids(directory, rng):
    with open(directory / "sample_submission.csv", "w") as file:
        file.write("Id,Category\n" + "".join(f"u{i}.wav,x\n" for i in range(10**6)))
    return Case(set(REFUSED), seconds=600)


@kind("audio", "listed 10^6 rows")
def million_paths(directory, rng):
    with open(directory / "utterances.csv", "w") as file:
        file.write("path,label\n" + "".join(f"train/anna/u{i}.wav,x\n" for i in range(10**6)))
    return Case(set(REFUSED), seconds=600)


# The course's format --------------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def saved(content, **options) -> bytes:
    import torch

    with io.BytesIO() as file:
        torch.save(content, file, **options)
        return file.getvalue()


def pick_tensor(directory: Path, rng: np.random.Generator) -> tuple[Path, tuple[int, int]]:
    """Return a .pt file and its shape."""
    entries = json.loads((directory / "testdata.json").read_text())["utterances"]
    for listed in json.loads((directory / "metadata.json").read_text())["speakers"].values():
        entries += listed
    entry = entries[rng.integers(len(entries))]
    return directory / entry["feature_path"], (entry["mel_len"], 40)


def register_tensor_damage() -> None:
    for name, damage in DAMAGE.items():

        def spoil(directory, rng, damage=damage):
            path, _ = pick_tensor(directory, rng)
            rewrite(path, lambda data: damage(data, rng))
            return Case(touched={path.name})

        KINDS[f"pt: {name}"] = "course", spoil


register_tensor_damage()


@kind("course", "pt: other content")
def other_tensor(directory, rng):
    import torch

    path, shape = pick_tensor(directory, rng)
    ones = torch.ones(shape)
    content = [
        ones[1:],
        ones.T,
        ones[None],
        ones.flatten(),
        ones[:, :39],
        ones.int(),
        ones.bool(),
        ones.to(torch.complex64),
        ones.to_sparse(),
        ones.to("meta"),
        torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8),
        {"x": ones},
        [ones],
        None,
        "frames",
        7,
        torch.full(shape, torch.nan),
        torch.full(shape, -torch.inf),
        ones * 1e30,
        torch.ones(1).expand(10**9, 40),
        torch.empty(0, 40),
        torch.ones(1).expand(*shape)[:-1],
        ones.to_sparse_csr(),
    ][rng.integers(23)]
    path.write_bytes(saved(content))
    return Case({"refused", "skipped"}, {path.name})


@kind("course", "pt: code")
def code(directory, rng):
    path, shape = pick_tensor(directory, rng)
    content = [
        saved(Evil()),
        saved(Evil(), _use_new_zipfile_serialization=False),
        pickle.dumps(Evil()),
        pickle.dumps(Evil(), 0),
        saved({"x": Evil()}),
        saved([np.zeros(shape), Evil()]),
        saved(np.array([Evil()], object)),
    ][rng.integers(7)]
    path.write_bytes(content)
    return Case(set(REFUSED))


@kind("course", "pt: by numpy")
def by_numpy(directory, rng):
    import torch

    path, _ = pick_tensor(directory, rng)
    frames = torch.load(path, weights_only=True).numpy()
    file, fault = io.BytesIO(), int(rng.integers(6))
    (np.save, np.savez, np.savez_compressed)[fault % 3](file, frames)
    path.write_bytes([*[file.getvalue()] * 3, saved(frames), pickle.dumps(frames), saved([frames])][fault])
    return Case({"unchanged"}) if fault == 0 else Case({"refused", "skipped"}, {path.name})


@kind("course", "pt: other archives")
def other_archive(directory, rng):
    path, _ = pick_tensor(directory, rng)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    compression = zipfile.ZIP_DEFLATED if rng.random() < 0.5 else zipfile.ZIP_STORED
    fault = int(rng.integers(4))
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            if fault == 0 and name.endswith("data/0"):
                data = bytes(1 << 26) if compression else data[:-4]
            if fault == 1 and name.endswith("data.pkl"):
                data = data[: rng.integers(len(data))]
            if not (fault == 2 and name.endswith("data/0")):
                archive.writestr(name if fault != 3 else f"../../{name}", data)
    return Case({"refused", "skipped"}, {path.name})


@kind("course", "JSON: torn or of other bytes")
def torn_json(directory, rng):
    path = directory / str(rng.choice(["metadata.json", "mapping.json", "testdata.json"]))
    change = [
        lambda d: d[: rng.integers(len(d) - 1)],
        lambda d: flip(d, rng),
        lambda d: flip(d, rng),
        lambda d: rng.bytes(99),
        lambda d: d.decode().encode("utf-16"),
        lambda d: b"\xef\xbb\xbf" + d,
        lambda d: b"[" * 10**5,
        lambda d: d + d,
        lambda d: d.replace(b"40", b"4" * 5000),
        lambda d: d.replace(b"40", b"NaN"),
        lambda d: d.replace(b"40", b"40.0"),
        lambda d: d.replace(b'"', b"'"),
        lambda d: b'{"a":' * 10**5,
        lambda d: b"",
    ][rng.integers(14)]
    rewrite(path, change)
    touched = {p.name for p in directory.glob("*.pt")}  # another mel_len is another shape: skipped
    return Case(touched=touched)


@kind("course", "JSON: other types and values")
def other_json(directory, rng):
    path = directory / str(rng.choice(["metadata.json", "mapping.json", "testdata.json"]))
    content = json.loads(path.read_text())
    places = []

    def walk(node):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            places.append((node, key))
            walk(child)

    walk(content)
    places = [place for place in places if place[0] is not content.get("id2speaker")]
    node, key = places[rng.integers(len(places))]
    if key == "id2speaker":
        node["speaker2id"] = {}
    value = [
        None,
        True,
        [],
        {},
        "x",
        -1,
        0,
        10**18,
        1.5,
        "../../outside/secret.pt",
        "/etc/passwd",
        "\ud800",
        "a\nb",
        "",
        float("nan"),
        [[]],
        {"x": 1},
    ][rng.integers(17)]
    node[key] = value
    path.write_text(json.dumps(content))
    return Case({"refused", "skipped"}, {p.name for p in directory.glob("*.pt")})


@kind("course", "JSON: a key twice")
def key_twice(directory, rng):
    name, key = (
        ("metadata.json", '"bert": ['),
        ("mapping.json", '"bert": 1'),
        ("testdata.json", '"n_mels": 40'),
        ("metadata.json", '"speakers": {'),
    )[rng.integers(4)]
    text = (directory / name).read_text()
    assert key in text
    whole = {"[": f"{key}], ", "{": f"{key}}}, "}.get(key[-1], f"{key}, ")
    (directory / name).write_text(text.replace(key, whole + key, 1))
    return Case(set(REFUSED))


@kind("course", "JSON: odd ids")
def odd_ids(directory, rng):
    content = json.loads((directory / "testdata.json").read_text())
    entry = content["utterances"][rng.integers(4)]
    old, new = entry["feature_path"], str(rng.choice([*NAMES, *BAD_PATHS]))
    entry["feature_path"] = new
    if not new.startswith("/"):  # a path of this machine is not to be replaced
        with contextlib.suppress(OSError, ValueError):
            (directory / old).rename(directory / new)
    (directory / "testdata.json").write_text(json.dumps(content))
    return Case({"refused", "unchanged"}, renamed={old: new})


@kind("course", "JSON: missing, twice or in both")
def doubled(directory, rng):
    content = json.loads((directory / "metadata.json").read_text())
    test = json.loads((directory / "testdata.json").read_text())
    speakers = content["speakers"]
    [
        lambda: speakers["anna"].append(speakers["bert"][0]),
        lambda: speakers["anna"].append(test["utterances"][0]),
        lambda: (directory / speakers["carl"][0]["feature_path"]).unlink(),
        lambda: speakers.pop("carl") and speakers.pop("bert"),
        lambda: speakers.update(dora=[]) or speakers.update(emil=speakers.pop("bert")),
        lambda: test["utterances"].clear(),
    ][rng.integers(6)]()
    (directory / "metadata.json").write_text(json.dumps(content))
    (directory / "testdata.json").write_text(json.dumps(test))
    return Case(set(REFUSED))


@kind("course", "pipes and links of the course")
def course_pipes(directory, rng):
    path = directory / str(
        rng.choice(["metadata.json", "mapping.json", "testdata.json", "uttr-anna0.pt", "solution.csv"])
    )
    path.unlink(missing_ok=True)
    if rng.random() < 0.5:
        os.mkfifo(path)
    else:
        path.symlink_to(
            ("/dev/zero", "/etc/passwd", directory.parent / "outside" / "table.csv", path.name)[rng.integers(4)]
        )
    return Case(set(REFUSED))


@kind("course", "10^6 speakers in JSON")
def million_speakers(directory, rng):
    names = [f"s{i}" for i in range(10**6)]
    (directory / "mapping.json").write_text(json.dumps({"speaker2id": {n: i for i, n in enumerate(names)}}))
    return Case(set(REFUSED), seconds=600)


@kind("course", "an utterance of one frame")
def one_frame(directory, rng):
    import torch

    content = json.loads((directory / "metadata.json").read_text())
    name = str(rng.choice(SPEAKERS))
    content["speakers"][name].append({"feature_path": "one.pt", "mel_len": 1})
    torch.save(torch.zeros(1, 40), directory / "one.pt")
    (directory / "metadata.json").write_text(json.dumps(content))
    return Case(set(UNCHANGED), extra={"one.pt": (name, 1)})


# Embedded frames ------------------------------------------------------------------------------------------------------


@kind("frames", "npy: damaged header or length")
def damaged_header(directory, rng):
    def change(data):
        if rng.random() < 0.3:
            return [cut(data, rng), data + rng.bytes(int(rng.integers(1, 999)))][rng.integers(2)]
        for _ in range(rng.integers(1, 3)):
            data[rng.integers(128)] ^= 1 << int(rng.integers(8))
        return data

    rewrite(directory / "frames.npy", change)
    return Case({"refused", "unchanged"})


@kind("frames", "npy: another array")
def another_array(directory, rng):
    frames = np.load(directory / "frames.npy")
    content = [
        frames.astype(np.float64),
        frames[:-1],
        frames.T,
        np.asfortranarray(frames),
        frames.astype(">f4"),
        frames[None],
        frames[:, 0],
        np.zeros((0, 12), np.float32),
        np.zeros((len(frames), 0), np.float32),
        np.zeros(3, [("a", "f4")]),
        np.array("x"),
        frames.astype(np.float16),
    ][rng.integers(12)]
    np.save(directory / "frames.npy", content)
    if rng.random() < 0.2:
        with open(directory / "frames.npy", "wb") as file:
            np.savez(file, frames) if rng.random() < 0.5 else pickle.dump(Evil(), file)
    return Case(set(REFUSED))


@kind("frames", "npy: NaN and infinite frames")
def not_finite_frames(directory, rng):
    frames = np.load(directory / "frames.npy")
    row = int(rng.integers(sum(range(5, 23))))  # of a training utterance
    frames[row, rng.integers(12)] = rng.choice([np.nan, np.inf, -np.inf, 1e20])
    np.save(directory / "frames.npy", frames)
    utterance = int(np.searchsorted(np.cumsum(np.arange(5, 23)), row, side="right"))
    return Case({"skipped"}, {f"train_{utterance}"})


@kind("frames", "frames.csv with bad cells")
def bad_cells(directory, rng):
    path = directory / "frames.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    row, column = int(rng.integers(1, len(rows))), int(rng.integers(1, 4))
    rows[row][column] = str(
        rng.choice(
            [
                "",
                "-1",
                "0",
                "1e3",
                "1.0",
                "٣",
                "99999999999",
                "x",
                "TRAIN",
                "train ",
                "9" * 5000,
                "NaN",
                '"',
                "a\0b",
                "\x1b[2J",
            ]
        )
    )
    if column == 2 and rows[row][1] == "train":
        rows[row][2] = ["", " x", "x\t", "\u2028", '"'][rng.integers(5)]
    path.write_text("\n".join(map(",".join, rows)) + "\n", newline="")
    return Case(set(REFUSED))


@kind("frames", "frames.csv torn")
def torn_frames_table(directory, rng):
    path = directory / "frames.csv"
    change = [
        lambda d: d[: rng.integers(len(d) - 5)],
        lambda d: b"",
        lambda d: rng.bytes(300),
        lambda d: d.replace(b",", b";"),
        lambda d: d[: d.rfind(b"test_2")],
        lambda d: d.replace(b"test_1", b"test_0"),
        lambda d: d.replace(b"train_3", b""),
    ][rng.integers(7)]
    rewrite(path, change)
    return Case(set(REFUSED))


# The server -----------------------------------------------------------------------------------------------------------


def spoil(name: str, seed: int, sound: Path, folder: Path) -> Case:
    """Make folder/competition, of the kind `name`, beside folder/outside, which nothing may touch."""
    base, function = KINDS[name]
    shutil.copytree(sound / base, folder / "competition")
    (folder / "outside").mkdir()
    write_audio(folder / "outside" / "secret.wav", voice(2, 99))
    write_table(folder / "outside" / "table.csv", [("Id", "Category"), ("t0.wav", "x")])
    return function(folder / "competition", np.random.default_rng([seed, *name.encode()]))


def read_competition(data: str, workspace: str) -> dict:
    """List and preprocess a competition, and return what came of it."""
    from src.base.errors import SpeakerIDError
    from src.competition.open import open_competition
    from src.preprocess import preprocess
    from src.settings.config import Features

    os.environ["SPEAKER_ID_WORKSPACE"] = workspace
    try:
        competition = open_competition(data)
        return {"outcome": "made", "store": str(preprocess(competition, Features(), 2))}
    except SpeakerIDError as error:
        return {"outcome": "refused", "code": error.exit_code, "message": str(error)}
    except BaseException as error:
        import traceback

        return {
            "outcome": "CRASH",
            "message": f"{type(error).__name__}: {error}",
            "trace": traceback.format_exc()[-1500:],
        }


def read_apart(task: dict) -> dict:
    """Return what `read_competition` gives in a process of its own, killed after task["seconds"]."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        os.close(receive)
        resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)  # libmpg123 writes to stderr by itself
        os.chdir(task["cwd"])
        # a superuser reads what nobody may: give the capabilities up (version 3 of the call, this process, none)
        ctypes.CDLL(None).capset(struct.pack("II", 0x20080522, 0), bytes(24))
        content = json.dumps(read_competition(task["data"], task["workspace"])).encode()
        while content:
            content = content[os.write(send, content) :]
        os._exit(0)
    os.close(send)
    content, deadline = b"", time.monotonic() + task["seconds"]
    while select.select([receive], [], [], max(0, deadline - time.monotonic()))[0]:
        block = os.read(receive, 1 << 16)
        if not block:
            break
        content += block
    else:
        os.kill(child, signal.SIGKILL)
    os.close(receive)
    status = os.waitpid(child, 0)[1]
    if content and status == 0:
        return json.loads(content)
    return {
        "outcome": "HANG" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else "CRASH",
        "message": f"status {status} after {task['seconds']} s",
    }


def main() -> None:
    import torch

    import src.store.build  # noqa: F401  (imported once, for every child)


    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(read_apart(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
