"""Malformed input: whatever lies in a competition's folder, it is read rightly, skipped and listed, or refused.

Each case is read in a process of its own with a time limit (see malformed.py): a crash, a hang, a file outside the
workspace or a row that is silently wrong fails. The campaign runs every kind with many seeds, the quick test a sample.
"""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from src import experiments
from src.base.errors import InputError, RunError, SpeakerIDError
from src.base.torch_files import CorruptFile
from src.base.workspace import PROJECT_DIR
from src.competition.open import open_competition
from src.ledger import file as ledger
from src.model.checkpoint import load_model, save_model
from src.model.speaker_model import SpeakerModel
from src.preprocess import preprocess
from src.runs.logits import read_logits, save_logits
from src.settings.auto import DataSummary, adapt
from src.settings.config import Features, override, part
from src.store import audio_file as audio
from src.store.ogg_pages import ogg_crc
from src.store.store import Store
from src.store.tensor_file import read_tensor
from src.store.writer import Chunk, StoreWriter
from tests.support import malformed

SEEDS, LARGE_SEEDS = 12, 1  # of each kind in the campaign
FOUND = {"sparse terabytes": [0], "a linked table": [0, 13], "a pipe": [0, 1, 8], "files at the wrong depth": [0, 1, 5],
         "unreadable": [0, 10], "pt: bits flipped": [1], "pt: a block lost": [2], "JSON: a key twice": [0, 1],
         "pipes and links of the course": [0, 1], "npy: damaged header or length": [2], "npy: another array": [0, 2]}
# FOUND: seeds that once ended in a crash, a hang, a wrong row or a message without a remedy
REMEDY = re.compile(r"fetch|remove|rename|copy|mend|convert|move|set |add |put |use |give|fill|run |cut|make|name|must|"
                    r"need|unpack|data/README|did you mean|; valid: |is missing from", re.IGNORECASE)


@pytest.fixture(scope="module")
def server():
    """Return a function that has a task read in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT_DIR), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, malformed.__file__], text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, env=environment) as process:
        def ask(folder, seconds=120.0):
            task = {"data": str(folder / "competition"), "workspace": str(folder / "workspace"), "seconds": seconds,
                    "cwd": str(folder / "outside")}
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())
        yield ask
        process.stdin.close()


@pytest.fixture(scope="module")
def sound(server):
    """Return the folder of sound competitions and {base: {id: (speaker, frames)}} as the store holds them."""
    with tempfile.TemporaryDirectory() as name:
        folder, truth = Path(name), {}
        malformed.bases(folder / "bases")
        for base in ("audio", "course", "frames"):
            (folder / base / "outside").mkdir(parents=True)
            shutil.copytree(folder / "bases" / base, folder / base / "competition")
            answer = server(folder / base)
            assert answer["outcome"] == "made", answer
            truth[base] = rows_of(Path(answer["store"]))
            assert len(truth[base]) == 22
        yield folder / "bases", truth


def rows_of(store):
    """Return {id: (speaker, frames)} of a store, read by hand."""
    meta = json.loads((store / "meta.json").read_text())
    flat = np.fromfile(store / "frames.bin", {"logmel": np.float16, "cepstra": np.float32}[meta["kind"]])
    flat = flat.reshape(-1, meta["dim"])
    with open(store / "table.csv", encoding="utf-8", newline="") as file:
        return {row["utt_id"]: (row["speaker"], flat[int(row["offset"]) : int(row["offset"]) + int(row["num_frames"])])
                for row in csv.DictReader(file)}


def seen(folder):
    """Return what lies in a folder, by name: kind, size and time of the last change; the workspace aside."""
    return {str(path): (status.st_mode, status.st_size, status.st_mtime_ns) for path in folder.rglob("*")
            if (status := path.lstat()) and "workspace" not in path.relative_to(folder).parts}


def outcome_of(name, seed, server, sound, folder):
    """Return what became of one case; raises AssertionError where that is none of what may."""
    case = malformed.spoil(name, seed, sound[0], folder)
    before = seen(folder)
    answer = server(folder, case.seconds)
    where = f"{name}, seed {seed}: {answer}"
    assert answer["outcome"] in ("made", "refused"), where
    assert seen(folder) == before, f"{where}: touched {set(seen(folder).items()) ^ set(before.items())}"
    if answer["outcome"] == "refused":
        message = answer["message"]
        assert "refused" in case.outcomes, where
        assert answer["code"] in (2, 3, 4), where
        assert str(folder / "competition") in message, where
        assert REMEDY.search(message.replace(str(folder), "")), where
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", message), where  # nothing that a terminal obeys
        return "refused"
    return judge(case, sound[1][malformed.KINDS[name][0]], Path(answer["store"]), where)


def judge(case, truth, store, where):
    """Return "skipped", "unchanged" or "changed", after every row was held against the truth."""
    rows = rows_of(store)
    expected = {case.renamed.get(utt_id, utt_id): row for utt_id, row in truth.items() if utt_id not in case.gone}
    expected = {utt_id: (case.relabelled.get(utt_id, speaker), num_frames)
                for utt_id, (speaker, num_frames) in expected.items()}
    with open(store / "skipped.csv", encoding="utf-8", newline="") as file:
        skipped = {row["utt_id"]: row["cause"] for row in csv.DictReader(file)}
    assert set(rows) | set(skipped) == set(expected) | set(case.extra), where
    assert not set(rows) & set(skipped), where
    assert set(skipped) <= case.touched, (where, skipped)
    assert all(skipped.values()), where
    outcome = "skipped" if skipped else "unchanged"
    for utt_id, (speaker, frames) in rows.items():
        assert len(frames), where
        assert np.isfinite(frames.astype(np.float32)).all(), where
        if utt_id in case.extra:
            assert speaker == case.extra[utt_id][0], where
            assert case.extra[utt_id][1] in (None, len(frames)), where
            continue
        assert speaker == expected[utt_id][0], (where, utt_id, speaker)
        if not np.array_equal(frames, expected[utt_id][1]):
            assert utt_id in case.touched, (where, utt_id)
            assert "changed" in case.outcomes, (where, utt_id)
            outcome = "changed"
    assert outcome in case.outcomes | ({"changed"} & case.outcomes), (where, outcome)
    return outcome


def run_cases(cases, server, sound):
    """Run cases and print the outcomes by kind; raises AssertionError with every failure."""
    counts, failures = defaultdict(Counter), []
    for name, seed in cases:
        with tempfile.TemporaryDirectory() as folder:
            try:
                counts[name][outcome_of(name, seed, server, sound, Path(folder))] += 1
            except AssertionError as error:
                counts[name]["FAILED"] += 1
                failures.append(str(error)[:1500])
    for name, outcomes in counts.items():
        print(f"{name:40}", ", ".join(f"{outcome} {number}" for outcome, number in sorted(outcomes.items())))
    print(f"{sum(map(Counter.total, counts.values()))} inputs:", dict(sum(counts.values(), Counter())))
    assert not failures, f"{len(failures)} failed:\n" + "\n\n".join(failures)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_a_sample_of_malformed_inputs(server, sound):
    kinds = sorted(malformed.KINDS.keys() - malformed.LARGE - FOUND.keys())
    sample = np.random.default_rng(7).choice(kinds, 40 - sum(map(len, FOUND.values())), replace=False).tolist()
    run_cases([(name, seed) for name, seeds in FOUND.items() for seed in seeds] + [(name, 0) for name in sample],
              server, sound)


@pytest.mark.campaign
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_every_kind_of_malformed_input(server, sound):
    run_cases([(name, seed) for name in malformed.KINDS
               for seed in range(LARGE_SEEDS if name in malformed.LARGE else SEEDS)], server, sound)


# What the project itself wrote ----------------------------------------------------------------------------------------


def each_damaged(path, number):
    """Damage a file in `number` ways, one after another, and yield the seed; the file is mended at the end."""
    whole = path.read_bytes()
    for seed in range(number):
        rng = np.random.default_rng(seed)
        damage = list(malformed.DAMAGE.values())[seed % len(malformed.DAMAGE)]
        path.write_bytes(damage(bytearray(whole), rng))
        yield seed
    path.write_bytes(whole)


def outcomes_of_damage(path, number, read, errors, same):
    """Return the counts of "refused" and "unchanged"; fails on any other error and on other content."""
    counts = Counter()
    for seed in each_damaged(path, number):
        try:
            content = read(path)
        except errors as error:
            assert str(path) in str(error) or str(path.parent) in str(error), seed
            assert REMEDY.search(str(error)), (seed, str(error))
            counts["refused"] += 1
        else:
            assert same(content), seed
            counts["unchanged"] += 1
    print(path.name, dict(counts))
    assert counts["refused"] > number / 4
    return counts


def number_of(campaign, quick):
    return pytest.mark.parametrize("number", [quick, pytest.param(campaign, marks=pytest.mark.campaign)])


@number_of(300, 40)
def test_damaged_logits_are_refused_or_as_they_were(tmp_path, number):
    rows, logits = np.arange(30), np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    save_logits(tmp_path / "test.npz", rows, logits)
    outcomes_of_damage(tmp_path / "test.npz", number, read_logits, InputError,
                       lambda content: all(map(np.array_equal, content, (rows, logits))))


@number_of(200, 40)
def test_damaged_checkpoints_are_refused_or_as_they_were(tmp_path, number):
    experiment = override(experiments.get("course"), {
        "encoder": part("transformer", d_model=8, num_heads=2, feed_forward_dim=8), "folds": 2})
    experiment = adapt(experiment, DataSummary("logmel", 100, 5, 200))
    model = SpeakerModel(experiment, "logmel", 40, 3).eval()
    save_model(tmp_path / "model.pt", model, experiment, "logmel", 40, ("a", "b", "c"))
    weights = model.state_dict()

    def same(content):
        loaded, settings, speakers = content
        return (settings, speakers) == (experiment, ("a", "b", "c")) and all(
            torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())
    outcomes_of_damage(tmp_path / "model.pt", number, load_model, InputError, same)


@number_of(400, 100)
def test_a_damaged_ledger_is_refused_or_keeps_its_columns(tmp_path, number):
    for seed in range(4):
        ledger.append({"source": "ours", "status": "ok", "run_id": f"x/y-{seed}", "valid": 0.9,
                       "note": 'a "quoted", note\nof two lines'}, tmp_path / "ablations.csv")
    outcomes_of_damage(tmp_path / "ablations.csv", number, ledger.read, InputError,  # text may hold any other text
                       lambda rows: len(rows) <= 4 and all(list(row) == list(ledger.COLUMNS) for row in rows))


@pytest.mark.parametrize("name", ["meta.json", "table.csv", "frames.bin"])
@number_of(200, 40)
def test_a_damaged_store_is_refused_or_of_its_shape(tmp_path, monkeypatch, name, number):
    monkeypatch.setenv("SPEAKER_ID_WORKSPACE", str(tmp_path))
    malformed.bases(tmp_path / "bases")
    store = preprocess(open_competition(tmp_path / "bases" / "frames"), Features())
    total = Store.open(store).num_frames.sum()

    def whole(store):
        ends = store.offsets + store.num_frames
        return store.num_frames.sum() == total and ends[-1] == total and (store.offsets[1:] == ends[:-1]).all()
    for seed in each_damaged(store / name, number):
        try:
            assert whole(Store.open(store)), seed
        except RunError as error:
            assert "remove this folder and run preprocess again" in str(error), seed


@number_of(2000, 400)
def test_a_damaged_half_made_store_goes_on_to_the_same_bytes(tmp_path, monkeypatch, number):
    """Both files of a store in the making are damaged; what is not as it was written is made again."""
    chunks = [Chunk([3, 0, 2], {"a": "0" * 64}, {"1": "empty"}, 40, zlib.crc32(bytes(range(40)))),
              Chunk([5], {}, {}, 20, zlib.crc32(bytes(20)))]

    def written(directory):
        writer = StoreWriter(directory, [3, 1])
        kept = list(writer.finished)
        for chunk, data in list(zip(chunks, (bytes(range(40)), bytes(20))))[len(kept):]:
            writer.append(chunk, [memoryview(data)])
        writer.close()
        assert writer.finished == chunks
        return kept, [(directory / name).read_bytes() for name in ("frames.bin", "journal.jsonl")]
    _, whole = written(tmp_path / "partial")
    kept = Counter()
    for seed in range(number):
        rng = np.random.default_rng(seed)
        for name, content in zip(("frames.bin", "journal.jsonl"), whole):
            damage = list(malformed.DAMAGE.values())[rng.integers(4)]
            spoilt = damage(bytearray(content), rng) if rng.random() < 0.6 else content
            (tmp_path / "partial" / name).write_bytes(spoilt)
        before, after = written(tmp_path / "partial")
        kept[len(before)] += 1
        assert after == whole, seed
    assert set(kept) == {0, 1, 2}


# Faults of which a seed seldom draws the one that matters -------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ogg", ".opus"])
def test_one_changed_bit_anywhere_in_an_ogg_file_is_noticed(tmp_path, suffix):
    malformed.write_audio(tmp_path / f"a{suffix}", malformed.voice(0, 0, 2.0))
    data = (tmp_path / f"a{suffix}").read_bytes()
    audio.decode(data)
    audio.decode(data + b"TAG of some program")
    for position in np.random.default_rng(0).integers(len(data), size=100).tolist():
        with pytest.raises(CorruptFile):
            audio.decode(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])


@pytest.mark.parametrize(("rate", "channels"), [(1, 1), (3999, 1), (768_001, 1), (16000, 65)])
def test_rates_and_channels_that_no_recording_has_are_refused(tmp_path, rate, channels):
    malformed.write_audio(tmp_path / "a.wav", np.zeros((100, channels), np.float32), rate)
    with pytest.raises(CorruptFile, match=f"{rate} Hz and {channels} channels; a recording has"):
        audio.decode((tmp_path / "a.wav").read_bytes())


def test_tensors_without_numbers_and_archives_that_swell_are_no_features():
    with pytest.raises(CorruptFile, match="without numbers"):
        read_tensor(malformed.saved(torch.ones(5, 40, device="meta")), 5, 40)
    with zipfile.ZipFile(io.BytesIO(malformed.saved(torch.ones(5, 40)))) as whole, io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in whole.namelist():
                archive.writestr(name, whole.read(name))
        with pytest.raises(CorruptFile, match=r"compressed, as torch\.save never writes"):
            read_tensor(file.getvalue(), 5, 40)


def test_an_array_whose_header_says_less_than_the_file_holds_is_refused(tmp_path):
    malformed.bases(tmp_path)
    path = tmp_path / "frames" / "frames.npy"
    path.write_bytes(path.read_bytes().replace(b", 12)", b", 10)", 1))
    with pytest.raises(InputError, match=r"frames\.npy: its header says \(\d+, 10\), which is not what follows"):
        open_competition(tmp_path / "frames")


# Bounds that no small file reaches ------------------------------------------------------------------------------------


def test_audio_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    malformed.write_audio(tmp_path / "long.flac", np.zeros(50_000, np.int16))
    data = (tmp_path / "long.flac").read_bytes()
    assert len(audio.decode(data)[0]) == 50_000
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 1 << 12)
    monkeypatch.setattr(audio, "MOST_SAMPLES", 1 << 14)
    with pytest.raises(CorruptFile, match="longer than 0 hours; cut it into utterances"):
        audio.decode(data)


def test_the_checksum_of_an_ogg_page_is_that_of_the_standard():
    rng = np.random.default_rng(0)
    for size in (27, 28, 300):
        page = rng.bytes(size)
        register = 0
        for byte in page[:22] + bytes(4) + page[26:]:  # RFC 3533: polynomial 0x04c11db7, from 0, highest bit first
            register ^= byte << 24
            for _ in range(8):
                register = (register << 1) ^ (0x104C11DB7 if register >> 31 else 0)
        assert ogg_crc(page) == register


def test_a_name_longer_than_a_file_system_takes_is_no_folder():
    with pytest.raises(SpeakerIDError, match="no such folder"):
        open_competition("x" * 5000)


def test_a_folder_of_any_name_gives_a_name_that_files_can_have(tmp_path):
    malformed.bases(tmp_path)
    name = "語" * 84  # 252 bytes
    (tmp_path / "frames").rename(tmp_path / name)
    competition = open_competition(tmp_path / name)
    (tmp_path / f"partial-{competition.name}.json").touch()
