"""Sound files as people have them: all of the sound, wrong headers, joined files, channels that cancel, odd rates."""

import io
import struct

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from src.base.torch_files import CorruptFile
from src.competition.open import open_competition
from src.preprocess import preprocess
from src.settings.config import Features
from src.store import audio_file as audio
from src.store.ogg_pages import ogg_crc
from src.store.remarks import CANCELLING, LEFT_OVER, SILENT, TORN_END, WRONG_HEADER
from src.store.store import Store
from src.store.writer import StoreWriter
from tests.support.competitions import voice, write_audio

VOICE = np.concatenate([0.001 * voice(0, 0, 1.0), voice(0, 1, 1.0)])  # quiet at first: variable bit rates begin low
OTHER = voice(1, 0, 0.7)
MP3_DELAY = 1105  # samples that an encoder puts before the sound, by its own Xing header


def encoded(waveform, format_, subtype=None, rate=16000, **options):
    """Return the bytes of a sound file."""
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=format_, subtype=subtype, **options)
    return file.getvalue()


def decoded(data):
    """Return the waveform and the remarks."""
    remarks = {}
    return audio.decode(data, remarks)[0], remarks


WAV, FLAC = encoded(VOICE, "WAV", "PCM_16"), encoded(VOICE, "FLAC")
OPUS, VORBIS = encoded(VOICE, "OGG", "OPUS"), encoded(VOICE, "OGG", "VORBIS")
MP3 = encoded(VOICE, "MP3")
BARE_MP3 = MP3[MP3.index(b"\xff\xf3", 1) :]  # without the frame that holds the Xing header


def id3(num_bytes):
    return b"ID3\3\0\0" + bytes(num_bytes >> shift & 0x7F for shift in (21, 14, 7, 0)) + b"\xff\xd8" * (num_bytes // 2)


def ape(is_header):
    return b"APETAGEX" + struct.pack("<4I8x", 2000, 32 + 500, 1, 0x80000000 | is_header << 29)


TAG = b"TAG".ljust(128, b"x")


def in_wav(stream):
    """Return a wav whose samples are an mp3, as old dictation machines write them."""
    head = b"fmt " + struct.pack("<IHHIIHHHHIHHH", 30, 0x55, 1, 16000, 3000, 1, 0, 12, 1, 2, 288, 1, 1393)
    body = b"WAVE" + head + b"data" + struct.pack("<I", len(stream)) + stream
    return b"RIFF" + struct.pack("<I", len(body)) + body


def with_vbri(mp3):
    """Return an mp3 whose first frame holds Fraunhofer's header in place of Xing's."""
    frame = bytearray(mp3[: len(mp3) - len(BARE_MP3)].ljust(200, b"\0"))
    frame[4:] = bytes(len(frame) - 4)
    num_frames = int.from_bytes(mp3[mp3.index(b"Xing") + 8 :][:4])
    frame[36:54] = b"VBRI" + struct.pack(">HHHII", 1, 0, 75, len(mp3), num_frames)
    return bytes(frame[: len(mp3) - len(BARE_MP3)]) + BARE_MP3


# Sound is lost --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [
    BARE_MP3, id3(6000) + BARE_MP3, ape(True) + bytes(500) + ape(False) + BARE_MP3, BARE_MP3 + ape(True) + bytes(500)
    + ape(False) + TAG, BARE_MP3 + bytes(5000), bytes(5000) + BARE_MP3, in_wav(BARE_MP3),
], ids=["bare", "art", "APE in front", "tags behind", "zeros behind", "zeros in front", "in a wav"])
def test_an_mp3_of_variable_rate_without_a_header_is_read_to_its_end(data):
    whole = decoded(MP3)[0]
    waveform, remarks = decoded(data)
    assert len(waveform) % 576 == 0
    np.testing.assert_array_equal(waveform[MP3_DELAY : MP3_DELAY + len(whole)], whole)  # not a bit is another
    assert not remarks


def test_the_frames_of_an_mp3_are_held_against_every_header():
    half = len(MP3) // 2
    for data in (id3(40_000) + MP3[:half], with_vbri(MP3)[:half], MP3 + MP3[:half], MP3[:half] + MP3):
        with pytest.raises(CorruptFile, match=r"truncated: \d+ of \d+ samples"):
            audio.decode(data)
    place = MP3.index(b"Xing") + 8
    early = MP3[:place] + (20).to_bytes(4) + MP3[place + 4 :]  # as a recorder that was killed leaves it
    assert len(decoded(early)[0]) == len(decoded(BARE_MP3)[0])
    assert set(decoded(early)[1]) == {WRONG_HEADER}
    assert len(decoded(with_vbri(MP3))[0]) == len(decoded(BARE_MP3)[0]) + 576  # its header is a frame of silence
    assert set(decoded(BARE_MP3[:-9])[1]) == {TORN_END}
    with pytest.raises(CorruptFile, match=r"changed: \d,\d+ bytes in the midst of it are no mp3 frames"):
        audio.decode(BARE_MP3[:3000] + bytes(2000) + BARE_MP3[5000:])


def pages(data):
    """Return the pages of an Ogg file."""
    found = []
    while data:
        end = 27 + data[26] + sum(data[27 : 27 + data[26]])
        found.append(bytearray(data[:end]))
        data = data[end:]
    return found


def changed(data, change):
    """Return an Ogg file after `change` of its pages, with their checksums put right."""
    found = pages(data)
    found = change(found) or found
    for page in found:
        page[22:26] = ogg_crc(bytes(page)).to_bytes(4, "little")
    return b"".join(found)


def of_one_stream(data):
    def change(found):
        for page in found:
            page[14:18] = b"same"
    return changed(data, change)


def without_end(data):
    def change(found):
        found[-1][5] &= ~4
    return changed(data, change)


def ogg_flac(data):
    """Return a flac file in Ogg: a page for its first block, one for the others, and one for every 3,000 bytes."""
    blocks_end, is_last = 42, data[4] & 0x80
    while not is_last:
        is_last = data[blocks_end] & 0x80
        blocks_end += 4 + int.from_bytes(data[blocks_end + 1 : blocks_end + 4])
    first = b"\x7fFLAC\1\0\0\1" + data[:42]
    bodies = [first, data[42:blocks_end], *(data[i : i + 3000] for i in range(blocks_end, len(data), 3000))]
    found = []
    for i, body in enumerate(bodies):
        lacing = bytes([255] * (len(body) // 255) + [len(body) % 255])
        flags = 2 if i == 0 else 4 if i == len(bodies) - 1 else 0
        page = b"OggS\0" + bytes([flags]) + struct.pack("<QIII", 0, 7, i, 0) + bytes([len(lacing)]) + lacing + body
        found.append(bytearray(page))
    return changed(b"".join(found), lambda found: None)


@pytest.mark.parametrize(("first", "second"), [
    (WAV, encoded(OTHER, "WAV", "PCM_16")), (FLAC, encoded(OTHER, "FLAC")), (OPUS, encoded(OTHER, "OGG", "OPUS")),
    (VORBIS, encoded(OTHER, "OGG", "VORBIS")), (MP3, encoded(OTHER, "MP3")), (OPUS, VORBIS), (ogg_flac(FLAC), OPUS),
    (of_one_stream(OPUS), of_one_stream(OPUS)), (of_one_stream(VORBIS), of_one_stream(VORBIS)),
    (OPUS + TAG, OPUS), (id3(300) + MP3 + TAG, id3(700) + MP3), (without_end(OPUS), OPUS),
], ids=["wav", "flac", "opus", "vorbis", "mp3", "opus and vorbis", "flac in Ogg", "opus of one stream",
        "vorbis of one stream", "opus and tags", "mp3 and tags", "opus without an end"])
def test_joined_files_are_read_one_after_the_other(first, second):
    waveform = decoded(first + second)[0]
    np.testing.assert_array_equal(waveform, np.concatenate([decoded(first)[0], decoded(second)[0]]))


def test_joined_files_of_two_rates_keep_the_first_ones():
    waveform, rate = audio.decode(VORBIS + encoded(voice(0, 1, 1.0, 44100), "OGG", "VORBIS", 44100))
    assert (rate, len(waveform)) == (16000, len(VOICE) + 16000)
    assert np.corrcoef(waveform[-16000:], VOICE[-16000:])[0, 1] > 0.9  # the noise differs


def test_flac_in_ogg_is_taken_out_of_its_pages():
    np.testing.assert_array_equal(decoded(ogg_flac(FLAC))[0], decoded(FLAC)[0])
    with pytest.raises(CorruptFile, match="an Ogg page is missing"):
        audio.decode(changed(ogg_flac(FLAC), lambda found: found[:4] + found[5:]))


@pytest.mark.parametrize(("format_", "options"), [
    ("RF64", {}), ("WAV", {"endian": "BIG"}), ("AIFF", {}), ("AU", {}), ("CAF", {}), ("W64", {}), ("NIST", {})])
def test_half_a_file_of_any_container_is_refused(format_, options):
    data = encoded(VOICE, format_, "PCM_16", **options)
    assert decoded(data)[1] == {}
    assert len(decoded(data)[0]) == len(VOICE)
    with pytest.raises(CorruptFile, match=r"truncated: \d+ of 64\d\d\d bytes of samples"):
        audio.decode(data[: len(data) // 2])


# Good data refused ----------------------------------------------------------------------------------------------------


def sized(length, size, data=WAV, behind=b""):
    return data[:4] + struct.pack("<I", length) + data[8:40] + struct.pack("<I", size) + data[44:] + behind


def stating(num_samples, data=FLAC):
    head = int.from_bytes(data[18:26]) >> 36 << 36 | num_samples
    return data[:18] + head.to_bytes(8) + data[26:]


NUM_BYTES = 2 * len(VOICE)
LIST = b"LIST" + struct.pack("<I", 2000) + b"INFO".ljust(2000, b"x")
WRONG_HEADERS = {
    "as large as RIFF": (sized(NUM_BYTES + 36, NUM_BYTES + 36), WAV),
    "as large as the file": (sized(NUM_BYTES + 80, NUM_BYTES + 44), WAV),
    "its own head counted": (sized(NUM_BYTES + 44, NUM_BYTES + 8), WAV),
    "a pad byte counted": (sized(NUM_BYTES + 37, NUM_BYTES + 1), WAV),
    "twice the bytes, RIFF right": (sized(NUM_BYTES + 36, 2 * NUM_BYTES), WAV),
    "half the bytes, RIFF right": (sized(NUM_BYTES + 36, NUM_BYTES // 2), WAV),
    "no bytes, RIFF right": (sized(NUM_BYTES + 36, 0), WAV),
    "flac of no total": (stating(0), FLAC),
    "flac of no total, and tags": (id3(800) + stating(0) + TAG, FLAC),
    "flac of too small a total": (stating(20_000), FLAC),
    "flac of too large a total": (stating(len(VOICE) + 1), FLAC),
    "flac in Ogg of no total": (ogg_flac(stating(0)), FLAC),
    "opus without an end": (without_end(OPUS), OPUS),
    "vorbis without an end": (without_end(VORBIS), VORBIS),
}


@pytest.mark.parametrize(("data", "sound"), WRONG_HEADERS.values(), ids=WRONG_HEADERS)
def test_a_wrong_header_of_a_whole_file_is_read_and_remarked(data, sound):
    waveform, remarks = decoded(data)
    np.testing.assert_array_equal(waveform, decoded(sound)[0])
    assert set(remarks) == {WRONG_HEADER}


def torn(page):
    """Return a page that its last packet does not end on, without the flag of an end."""
    page = page.copy()
    page[5] &= ~4
    size = page[26 + page[26]]
    page[26 + page[26]] = 255
    return page + bytes(255 - size)


SHORT = {
    "wav": WAV[:-100], "wav by a byte": WAV[:-1], "the second wav": WAV + WAV[:-1000],
    "flac": stating(0)[:-100], "flac by a frame": stating(len(VOICE), encoded(VOICE[:28672], "FLAC")),
    "opus": OPUS[:-9], "the second opus": OPUS + OPUS[:-9], "opus by the end of a packet":
    changed(OPUS, lambda found: [*found[:-2], torn(found[-2])]),
}


@pytest.mark.parametrize("data", SHORT.values(), ids=SHORT)
def test_what_is_really_short_is_refused(data):
    with pytest.raises(CorruptFile, match="truncated"):
        audio.decode(data)


def test_bytes_behind_a_wav_are_tags_or_remarked():
    for data in (WAV + LIST, sized(NUM_BYTES + 36 + len(LIST), NUM_BYTES, behind=LIST), WAV + TAG, WAV + bytes(5000)):
        waveform, remarks = decoded(data)
        assert (len(waveform), remarks) == (len(VOICE), {})
    early = decoded(sized(36 + 8000, 8000))  # as a recorder that was killed leaves it
    assert (len(early[0]), set(early[1])) == (4000, {LEFT_OVER})
    with pytest.raises(CorruptFile, match="holds no samples"):
        audio.decode(sized(36 + len(LIST), 0, WAV[:44], LIST))


# Channels and silence -------------------------------------------------------------------------------------------------


def test_channels_that_cancel_give_the_loudest_of_them():
    noise = 0.001 * np.random.default_rng(0).standard_normal(VOICE.shape).astype(np.float32)
    for channels in ([VOICE, -VOICE], [VOICE, noise - VOICE], [0.5 * VOICE, VOICE, -0.5 * VOICE, -VOICE]):
        loudest = max(channels, key=lambda channel: float(np.square(channel).sum()))
        waveform, remarks = decoded(encoded(np.stack(channels, 1), "WAV", "FLOAT"))
        np.testing.assert_array_equal(waveform, loudest)
        assert set(remarks) == {CANCELLING}
    for channels in ([VOICE, 0 * VOICE], [VOICE, *[0 * VOICE] * 63], [VOICE, voice(1, 1, 2.0)], [VOICE, -0.7 * VOICE]):
        waveform, remarks = decoded(encoded(np.stack(channels, 1), "WAV", "FLOAT"))
        np.testing.assert_allclose(waveform, np.mean(channels, 0), atol=1e-6)
        assert not remarks


@pytest.mark.usefixtures("workspace")
def test_preprocess_tells_what_is_odd_even_after_a_killed_run(audio_dir, monkeypatch, capsys):
    train = audio_dir / "train" / "bert"
    (train / "0.wav").write_bytes(WRONG_HEADERS["as large as RIFF"][0])
    (train / "1.flac").write_bytes(stating(0))
    write_audio(train / "5.wav", np.zeros(9000, np.float32))
    write_audio(audio_dir / "test" / "t2.wav", np.full(9000, 0.25, np.float32))  # a direct current and no sound
    monkeypatch.setattr("src.store.build.CHUNK_UTTERANCES", 3)
    with monkeypatch.context() as patch:
        append = StoreWriter.append
        patch.setattr(StoreWriter, "append", lambda self, chunk, parts: append(self, chunk, parts) if len(self.finished)
                      < 4 else (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            preprocess(open_competition(audio_dir), Features())
    store = Store.open(preprocess(open_competition(audio_dir), Features()))
    assert len(store.num_frames) == 22
    said = capsys.readouterr().out
    assert ("preprocess: 2 files have a wrong header but all of their sound (train/bert/0.wav: its header states "
            "64,036 bytes of samples, there are 64,000; train/bert/1.flac: its header states 0 samples, its frames "
            "hold 32,000): read\n") in said
    assert ("preprocess: 2 files hold nothing but silence (train/bert/5.wav; test/t2.wav): used as they are; remove "
            "them, or fetch them again\n") in said


def test_nothing_is_said_of_sound_files_as_they_should_be():
    stereo = encoded(np.stack([VOICE, VOICE], 1), "WAV")
    for data in (WAV, FLAC, OPUS, VORBIS, MP3, BARE_MP3, encoded(VOICE, "AIFF"), stereo):
        assert decoded(data)[1] == {}
    assert decoded(encoded(np.zeros(900, np.float32), "WAV"))[1] == {SILENT: ""}


# Sample rates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [15999, 16001, 44056, 47952, 22255, 11127, 15991, 95999])
def test_a_rate_without_a_common_divisor_is_resampled(rate):
    def sine(time_s):
        return 0.3 * np.sin(2 * np.pi * 440 * time_s) + 0.3 * np.sin(2 * np.pi * 3000 * time_s)
    waveform = sine(np.arange(2 * rate) / rate).astype(np.float32)
    peak = np.abs(waveform).max()
    ours = audio.standardise(waveform, rate, Features()).numpy() * peak / 10 ** (-3 / 20)
    assert ours.dtype == np.float32
    assert len(ours) == 32000
    np.testing.assert_allclose(ours[200:-200], sine(np.arange(32000) / 16000)[200:-200], atol=2e-3)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_the_filter_of_odd_rates_is_that_of_all_others(rate):
    waveform = np.random.default_rng(0).uniform(-1, 1, rate).astype(np.float32)
    theirs = resample(torch.from_numpy(waveform), rate, 16000).numpy()
    np.testing.assert_allclose(audio.resampled(waveform, rate, 16000), theirs, atol=1e-4)
