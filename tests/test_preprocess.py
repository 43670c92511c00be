"""Preprocess: stored values against independent computations, resume, digests, and every kind of unusable input."""

import csv
import errno
import io
import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from src.base.errors import InputError, RunError, SettingError
from src.base.torch_files import CorruptFile
from src.competition.open import open_competition
from src.model import frontend
from src.model.frontend import LogMel
from src.preprocess import preprocess
from src.settings.config import Features
from src.store import audio_file as audio
from src.store import build, ensure
from src.store import decoder as reader
from src.store import writer as store_writer
from src.store.find import find_store
from src.store.store import Store
from src.store.tensor_file import plain_pickle, read_tensor
from tests.support.competitions import voice, write_audio

pytestmark = pytest.mark.usefixtures("workspace")


def make(directory, threads=2, **features):
    return preprocess(open_competition(directory), Features(**features), threads)


def frames_of(store, row):
    begin = store.offsets[row]
    return store.frames[begin : begin + store.num_frames[row]]


# Stored values --------------------------------------------------------------------------------------------------------


def test_course_log_mels_are_stored_as_their_own_halves(course_dir):
    store = Store.open(make(course_dir))
    assert (store.kind, store.dim, store.speakers) == ("logmel", 40, ("carl", "anna", "bert"))
    metadata = json.loads((course_dir / "metadata.json").read_text())
    names = [(s, e["feature_path"]) for s, entries in metadata["speakers"].items() for e in entries]
    for row, (speaker, name) in enumerate(names):
        np.testing.assert_array_equal(frames_of(store, row), torch.load(course_dir / name).numpy().astype(np.float16))
        assert store.utt_ids[row] == name
        assert store.speakers[store.labels[row]] == speaker
    assert store.utt_ids[18:] == open_competition(course_dir).test_ids
    assert store.test_rows.tolist() == [18, 19, 20, 21]
    assert store.labels[18:].tolist() == [-1] * 4


def test_embedded_cepstra_are_stored_unchanged(frames_dir):
    store = Store.open(make(frames_dir))
    assert (store.kind, store.dim) == ("cepstra", 4)
    np.testing.assert_array_equal(store.frames, np.load(frames_dir / "frames.npy"))
    assert store.num_frames.tolist() == [*range(5, 23), *range(6, 11)]


def log_mel_by_hand(waveform):
    """The course's features by the textbook: mirrored ends, Hann window, a plain DFT, HTK mel triangles."""
    padded = np.pad(waveform.astype(np.float64), 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.array([np.fft.rfft(window * padded[t : t + 400]) for t in range(0, len(waveform) + 1, 160)])) ** 2
    mel_points = np.linspace(2595 * np.log10(1 + 50 / 700), 2595 * np.log10(1 + 8000 / 700), 42)
    edges = 700 * (10 ** (mel_points / 2595) - 1)
    hertz = np.arange(201) * 40.0
    triangles = [np.clip(np.minimum((hertz - a) / (b - a), (c - hertz) / (c - b)), 0, None)
                 for a, b, c in zip(edges, edges[1:], edges[2:])]
    return np.log(np.maximum(power @ np.array(triangles).T, 1e-9))


def test_audio_gives_the_course_features(audio_dir):
    store = Store.open(make(audio_dir))
    for row, utt_id in enumerate(store.utt_ids):
        path = audio_dir / (utt_id if row < 18 else f"test/{utt_id}")
        waveform = soundfile.read(path, dtype="float32")[0]
        expected = log_mel_by_hand(waveform / np.abs(waveform).max() * 10 ** (-3 / 20))
        np.testing.assert_allclose(frames_of(store, row), expected, atol=0.02)
    # bit for bit what the course's own recipe computes, before the rounding to half precision
    waveform, rate = audio.decode((audio_dir / "test" / "t0.wav").read_bytes())
    scaled = torch.from_numpy(waveform)
    scaled = scaled / scaled.abs().max().clamp_min(1e-6) * 10 ** (-3 / 20)
    mel = torchaudio.transforms.MelSpectrogram(16000, n_fft=400, win_length=400, hop_length=160, f_min=50, n_mels=40)
    ours = LogMel(Features())(audio.standardise(waveform, rate, Features())[None])[0]
    assert torch.equal(ours, mel(scaled).clamp_min(1e-9).log().T)


def test_any_rate_and_any_channels_become_the_same_speech(audio_dir):
    wanted = voice(0, 0, 0.5)
    left_only = 0.3 * np.sin(np.arange(24000) * 0.2, dtype=np.float32)  # the mean of the channels is free of it
    stereo = np.stack([voice(0, 0, 0.5, rate=48000) + left_only, voice(0, 0, 0.5, rate=48000) - left_only], 1)
    path = audio_dir / "train" / "anna" / "stereo.wav"
    write_audio(path, stereo, 48000)
    store = Store.open(make(audio_dir, store="waveform"))
    row = store.utt_ids.index("train/anna/stereo.wav")
    ours = frames_of(store, row) / 32768
    assert len(ours) == len(wanted)
    assert np.abs(ours).max() == pytest.approx(10 ** (-3 / 20), abs=0.02)
    assert np.corrcoef(ours, wanted)[0, 1] > 0.98  # the noise differs
    row = store.utt_ids.index("train/anna/0.wav")
    samples = soundfile.read(audio_dir / "train" / "anna" / "0.wav", dtype="float64")[0]
    samples *= 10 ** (-3 / 20) / np.abs(samples).max()
    np.testing.assert_allclose(frames_of(store, row) / 32768, samples, atol=2e-5)


def test_long_audio_in_blocks_gives_the_same_samples_and_frames(monkeypatch):
    waveform = torch.from_numpy(voice(1, 0, 3.0, rate=44100))
    whole = torchaudio.functional.resample(waveform, 44100, 16000)
    log_mel = LogMel(Features())
    expected = log_mel(whole[None])[0]
    monkeypatch.setattr(audio, "RESAMPLED_SAMPLES", 30000)
    monkeypatch.setattr(frontend, "BLOCK_FRAMES", 17)
    torch.testing.assert_close(audio._resample(waveform, 44100, 16000), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.cat(list(log_mel.blocks(whole))), expected, atol=1e-5, rtol=0)


def test_a_padded_batch_gives_the_frames_of_each_waveform_alone():
    log_mel, sizes = LogMel(Features()), [1, 399, 401, 5000, 8000]
    batch = torch.zeros(len(sizes), 8000)
    for item, size in zip(batch, sizes):
        item[:size] = torch.from_numpy(voice(0, size, 0.5)[:size])
    lengths = torch.tensor(sizes)
    together = log_mel(batch, lengths)
    assert log_mel.num_frames(lengths).tolist() == [3, 3, 3, 32, 51]
    for i, size in enumerate(sizes):
        alone = log_mel(batch[i : i + 1, :size])[0]
        assert len(alone) == log_mel.num_frames(size)
        torch.testing.assert_close(together[i, : len(alone)], alone, atol=1e-4, rtol=0)


# The fast path of .pt files -------------------------------------------------------------------------------------------


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return bytearray(file.getvalue())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize("num_frames", [1, 255, 256, 1638, 1639, 65536])  # every width of a pickled number
def test_a_plain_tensor_file_is_read_without_unpickling(num_frames, monkeypatch):
    monkeypatch.setattr(torch, "load", None)
    frames = torch.randn(num_frames, 40)
    np.testing.assert_array_equal(read_tensor(saved(frames), num_frames, 40), frames.numpy())


def test_a_pickle_that_differs_in_one_byte_is_not_plain():
    data = saved(torch.ones(50, 40))
    at = data.index(plain_pickle(50, 40)) + 20
    data[at] ^= 1
    with pytest.raises((InputError, CorruptFile)):
        read_tensor(data, 50, 40)


@pytest.mark.parametrize("tensor", [
    torch.ones(50, 40).half(), torch.ones(50, 40).double(), torch.nn.Parameter(torch.ones(50, 40)),
    torch.ones(90, 40)[10:60], torch.ones(40, 50).T,
], ids=["half", "double", "parameter", "view", "transposed"])
def test_other_tensors_come_out_as_float32_too(tensor):
    frames = read_tensor(saved(tensor), 50, 40)
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames, 1)


@pytest.mark.parametrize("data", [
    saved(Evil()), saved(Evil(), _use_new_zipfile_serialization=False), pickle.dumps(Evil()), pickle.dumps(Evil(), 2),
    saved(np.array([Evil()], object)), pickle.dumps([np.zeros(3), Evil()]), saved(torch.nn.Linear(2, 2)),
], ids=["zip", "legacy", "pickle 4", "pickle 2", "in a numpy array", "beside a numpy array", "module"])
def test_code_is_refused_and_never_run(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="code or objects other than tensors; refused"):
        read_tensor(data, 50, 40)
    assert not (tmp_path / "evil").exists()


FRAMES = np.random.default_rng(0).standard_normal((50, 40)).astype(np.float32)


def by_numpy(save, frames):
    file = io.BytesIO()
    save(file, frames)
    return file.getvalue()


@pytest.mark.parametrize("frames", [FRAMES, FRAMES.astype(np.float64), np.asfortranarray(FRAMES),
                                    FRAMES.astype(">f4")], ids=["float32", "float64", "by columns", "big-endian"])
def test_an_array_that_np_save_wrote_as_pt_is_read(frames):
    np.testing.assert_array_equal(read_tensor(bytearray(by_numpy(np.save, frames)), 50, 40), FRAMES)


@pytest.mark.parametrize(("data", "cause"), [
    (saved(FRAMES), "holds a numpy array"), (saved({"x": [FRAMES, FRAMES]}), "holds a numpy array"),
    (saved(FRAMES, _use_new_zipfile_serialization=False), "holds a numpy array"),
    (saved(np.array([None, "x"], object)), "holds a numpy array"), (saved(FRAMES[0, 0]), "holds a numpy array"),
    *((pickle.dumps(FRAMES, protocol), "holds a numpy array") for protocol in range(6)),
    (by_numpy(np.savez, FRAMES), "holds a numpy array"), (by_numpy(np.savez_compressed, FRAMES), "holds a numpy array"),
    (by_numpy(np.save, FRAMES[1:]), r"shape \(49, 40\), but the tables say \(50, 40\)"),
    (by_numpy(np.save, FRAMES.astype(int)), "holds int64, not floating-point frames"),
    (by_numpy(np.save, FRAMES)[:-1], r"not a whole \.npy array of numbers"),
    (by_numpy(np.save, FRAMES).replace(b"40), ", b"40)}}", 1), r"not a whole \.npy array of numbers"),
])
def test_other_files_of_numpy_are_named_for_what_they_are(data, cause):
    with pytest.raises(CorruptFile, match=cause):
        read_tensor(data, 50, 40)


# Resume and digests ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(build, "CHUNK_UTTERANCES", 3)


@pytest.fixture
def read_paths(monkeypatch):
    """Return the list of files read so far."""
    paths, read_file = [], reader.Reader._read_file
    monkeypatch.setattr(reader.Reader, "_read_file", lambda self, path: paths.append(path) or read_file(self, path))
    return paths


def stop_after(monkeypatch, num_chunks, error):
    """Let appending fail with `error` once `num_chunks` chunks are written."""
    append, done = store_writer.StoreWriter.append, []

    def failing(self, chunk, parts):
        if len(done) == num_chunks:
            raise error
        done.append(chunk)
        append(self, chunk, parts)
    monkeypatch.setattr(store_writer.StoreWriter, "append", failing)


def tear_nothing(partial):
    pass


def tear_the_tail(partial):
    """As a kill in the middle of a chunk leaves it: bytes without a line, and half a line."""
    with open(partial / "frames.bin", "ab") as file:
        file.write(b"half a chunk")
    with open(partial / "journal.jsonl", "ab") as file:
        file.write(b'{"num_frames": [31, 4')


def lose_the_last_chunk(partial):
    """As a power cut may leave it: the line is there, its bytes are not."""
    data = bytearray((partial / "frames.bin").read_bytes())
    data[-1000:] = bytes(1000)
    (partial / "frames.bin").write_bytes(data)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("tear", "num_kept"), [(tear_nothing, 4), (tear_the_tail, 4), (lose_the_last_chunk, 3)])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(course_dir, tmp_path, monkeypatch, read_paths, tear, num_kept):
    whole = make(course_dir, threads=1)
    bytes_of = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert set(bytes_of) == {"frames.bin", "table.csv", "skipped.csv", "meta.json"}
    shutil.rmtree(tmp_path / "data")
    with monkeypatch.context() as patch:
        stop_after(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            make(course_dir)
    (partial,) = whole.parent.glob("partial-*")
    tear(partial)
    with monkeypatch.context() as patch:  # once more: what the first kill left behind must not spoil the second resume
        stop_after(patch, 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            make(course_dir)
    read_paths.clear()
    assert make(course_dir, threads=3) == whole
    assert len(read_paths) == 22 - 3 * (num_kept + 1)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == bytes_of
    assert not partial.exists()


@pytest.mark.usefixtures("small_chunks")
def test_a_full_disk_says_so_and_the_next_run_goes_on(course_dir, monkeypatch, read_paths):
    with monkeypatch.context() as patch:
        write, written = store_writer._write, []

        def fill(file, part):
            if sum(written) + part.nbytes > 30_000:
                write(file, part[:7])
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(part.nbytes)
            write(file, part)
        patch.setattr(store_writer, "_write", fill)
        with pytest.raises(RunError, match=r"partial-logmel-\w+: the disk is full; \d+ of 22 utterances are done\."):
            make(course_dir)
    read_paths.clear()
    assert Store.open(make(course_dir)).utt_ids
    assert 0 < len(read_paths) < 22


@pytest.mark.usefixtures("small_chunks")
def test_what_a_flush_in_the_background_could_not_write_is_told_whichever_it_was(course_dir, monkeypatch):
    flushes = []

    def fsync(descriptor):
        if not os.readlink(f"/proc/self/fd/{descriptor}").endswith("frames.bin"):
            return
        flushes.append(descriptor)
        if len(flushes) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(store_writer, "FLUSH_BYTES", 1)
    monkeypatch.setattr(store_writer.os, "fsync", fsync)
    with pytest.raises(RunError, match=r"cannot be written \(Input/output error\)"):
        make(course_dir)


def test_one_changed_file_changes_the_digest_and_nothing_else_does(audio_dir, read_paths):
    first = make(audio_dir)
    assert find_store(open_competition(audio_dir), Features()) == first
    read_paths.clear()
    assert make(audio_dir) == first
    os.utime(audio_dir / "train" / "anna" / "0.wav", ns=(1, 1))
    (audio_dir / "README.md").write_text("nothing that is listed")
    assert find_store(open_competition(audio_dir), Features()) is None
    assert make(audio_dir) == first
    assert read_paths == []  # the touched file was hashed, nothing was decoded
    assert find_store(open_competition(audio_dir), Features()) == first
    path = audio_dir / "train" / "anna" / "0.wav"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert make(audio_dir) not in (first, None)
    hashes = next(first.parent.glob("hashes-*.json"))
    for torn in ("", "[1, 2]", '{"train/anna/0.wav": [3'):
        hashes.write_text(torn)
        assert find_store(open_competition(audio_dir), Features()) is None


def test_only_settings_that_are_used_name_the_store(audio_dir, frames_dir, course_dir):
    cepstra = make(frames_dir)
    assert make(frames_dir, num_mels=80, sample_rate=8000) == cepstra
    assert make(course_dir, n_fft=512, f_min=20.0) == make(course_dir)
    assert make(audio_dir, n_fft=512) != make(audio_dir)
    assert make(audio_dir, store="waveform", n_fft=512) == make(audio_dir, store="waveform")
    with pytest.raises(SettingError, match=r"features\.num_mels=80.*comes with 40 mel bands"):
        make(course_dir, num_mels=80)
    for directory in (frames_dir, course_dir):
        with pytest.raises(SettingError, match=r"features\.store=waveform"):
            make(directory, store="waveform")
    with pytest.raises(SettingError, match=r"features\.win_length: 400 is above"):
        make(audio_dir, n_fft=256)


# Input that cannot be used --------------------------------------------------------------------------------------------


def cut(part):
    """Keep only the first part of a file."""
    return lambda path: os.truncate(path, int(path.stat().st_size * part))


def skipped(store_dir, path):
    """Return the cause that skipped.csv gives for `path`, its only row."""
    with open(store_dir / "skipped.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == row["utt_id"] == path
    return row["cause"]


def sound(values, rate=16000):
    return lambda path: soundfile.write(path, values, rate, format="WAV", subtype="FLOAT")


CORRUPT_AUDIO = {
    "truncated wav": ("0.wav", cut(0.9), "truncated: .* bytes of samples"),
    "truncated flac": ("1.flac", cut(0.9), "cannot be decoded"),
    "truncated opus": ("2.opus", cut(0.9), "truncated: the last Ogg page is torn"),
    "truncated vorbis": ("3.ogg", cut(0.9), "truncated: the last Ogg page is torn"),
    "truncated mp3": ("4.mp3", cut(0.7), "truncated: .* samples"),
    "zero length": ("0.wav", cut(0), "cannot be decoded"),
    "text": ("0.wav", lambda path: path.write_text("not audio at all"), "cannot be decoded"),
    "no samples": ("0.wav", sound(np.zeros(0, np.float32)), "holds no samples"),
    "NaN": ("0.wav", sound(np.full(9000, np.nan, np.float32)), "holds NaN"),
}


@pytest.mark.parametrize(("name", "damage", "cause"), CORRUPT_AUDIO.values(), ids=CORRUPT_AUDIO)
def test_unusable_training_audio_is_skipped_and_listed(audio_dir, capfd, name, damage, cause):
    damage(audio_dir / "train" / "bert" / name)
    path = make(audio_dir)
    store = Store.open(path)
    assert len(store.train_rows) == 17
    assert f"train/bert/{name}" not in store.utt_ids
    assert f"skipped 1 of 18 training files that cannot be used (all in {path}/skipped.csv)" in capfd.readouterr().out
    assert re.match(cause, skipped(path, f"train/bert/{name}"))


@pytest.mark.parametrize(("riff", "size"), [(0, 0), (36, 0), (0x7FFFF024, 0x7FFFF000), (0x7FFFF000, 0x7FFFEFDC),
                                            (0x7FFFFFFF, 0x7FFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_a_wav_that_a_pipe_wrote_is_whole_and_an_empty_one_empty(tmp_path, riff, size):
    path = tmp_path / "whole.wav"
    soundfile.write(path, voice(0, 0, 0.5), 16000, subtype="PCM_16")
    whole = path.read_bytes()
    assert whole[36:40] == b"data"
    piped = whole[:4] + riff.to_bytes(4, "little") + whole[8:40] + size.to_bytes(4, "little") + whole[44:]
    waveform, rate = audio.decode(piped)
    assert rate == 16000
    np.testing.assert_array_equal(waveform, audio.decode(whole)[0])
    tags = b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    empty = whole[:4] + (36 + len(tags)).to_bytes(4, "little") + whole[8:40] + bytes(4) + tags
    with pytest.raises(CorruptFile, match="holds no samples"):
        audio.decode(empty)


@pytest.mark.parametrize("change", [sound(np.zeros(9000, np.float32)), sound(np.ones(3, np.float32))],
                         ids=["silence", "shorter than a window"])
def test_odd_but_usable_audio_is_kept(audio_dir, change):
    change(audio_dir / "train" / "bert" / "0.wav")
    store = Store.open(make(audio_dir))
    frames = frames_of(store, store.utt_ids.index("train/bert/0.wav"))
    assert len(frames) in (57, 3)
    assert np.isfinite(frames).all()


def saving(content):
    return lambda path: path.write_bytes(saved(content))


CORRUPT_TENSORS = {
    "truncated": (cut(0.5), "not a whole .pt file"),
    "zero length": (cut(0), "empty"),
    "NaN": (saving(torch.full((50, 40), torch.nan)), "holds NaN"),
    "infinite": (saving(torch.full((50, 40), torch.inf)), "holds NaN"),
    "other shape": (saving(torch.ones(49, 40)), r"shape \(49, 40\), but the tables say \(50, 40\)"),
    "three dimensions": (saving(torch.ones(50, 40, 1)), "shape"),
    "whole numbers": (saving(torch.ones(50, 40).int()), "holds torch.int32"),
    "not a tensor": (saving({"frames": torch.ones(50, 40)}), "holds a dict"),
    "a tiny file of a huge shape": (saving(torch.ones(1).expand(10**12, 40)), "shape"),
}


@pytest.mark.parametrize(("damage", "cause"), CORRUPT_TENSORS.values(), ids=CORRUPT_TENSORS)
def test_unusable_tensor_files_are_skipped_and_listed(course_dir, damage, cause):
    metadata = json.loads((course_dir / "metadata.json").read_text())
    entry = metadata["speakers"]["bert"][3]
    entry["mel_len"] = 50
    (course_dir / "metadata.json").write_text(json.dumps(metadata))
    torch.save(torch.ones(50, 40), course_dir / entry["feature_path"])
    assert len(Store.open(make(course_dir)).train_rows) == 18
    damage(course_dir / entry["feature_path"])
    path = make(course_dir)
    assert len(Store.open(path).train_rows) == 17
    assert re.match(cause, skipped(path, entry["feature_path"]))


def test_too_many_unusable_training_files_stop_the_stage(audio_dir):
    for take, ending in enumerate(("wav", "flac", "opus", "ogg", "mp3", "wav")):
        cut(0.2)(audio_dir / "train" / "bert" / f"{take}.{ending}")
    with pytest.raises(InputError, match=r"6 of 18 training files cannot be used; fetch them again, or remove them:\n"
                                         r"  train/bert/0\.wav: truncated"):
        make(audio_dir)


def test_every_unusable_test_file_is_named(audio_dir):
    for name in ("t1.wav", "t3.wav"):
        cut(0.5)(audio_dir / "test" / name)
    with pytest.raises(InputError, match=r"2 of 4 test files .*\n  test/t3\.wav: trunc.*\n  test/t1\.wav: trunc"):
        make(audio_dir)


def test_code_in_a_training_file_stops_the_stage_by_name(course_dir):
    path = next(course_dir.glob("*.pt"))
    torch.save(Evil(), path)
    with pytest.raises(InputError, match=rf"{path.name}: carries code or objects"):
        make(course_dir)


def test_a_file_that_changes_while_it_is_read_stops_the_stage(course_dir, monkeypatch):
    stamps = ensure.stamp_files
    monkeypatch.setattr(ensure, "stamp_files", lambda c: {path: (1, 2) for path in stamps(c)})
    with pytest.raises(InputError, match="changed while it was read"):
        make(course_dir)


def test_a_file_that_is_read_in_pieces_is_read_whole(frames_dir, workspace, monkeypatch):
    """The system reads at most 2 GB at once; here it is 100 bytes."""
    class Slow(io.FileIO):
        def readinto(self, buffer):
            return super().readinto(memoryview(buffer)[:100])

    whole = Store.open(preprocess(open_competition(frames_dir), Features()))
    expected = whole.frames.tobytes()
    shutil.rmtree(workspace / "data" / "cache")
    monkeypatch.setattr(reader, "open", lambda path, mode, buffering: Slow(path), raising=False)
    assert Store.open(preprocess(open_competition(frames_dir), Features())).frames.tobytes() == expected
    shutil.rmtree(workspace / "data" / "cache")
    monkeypatch.setattr(Slow, "readinto", lambda file, buffer: 0)  # as after its end was cut off
    with pytest.raises(InputError, match="changed while it was read"):
        preprocess(open_competition(frames_dir), Features())
