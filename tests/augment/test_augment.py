"""Every registered augmentation under one contract, and each one's physics against an independent measure."""

import math
import time

import numpy as np
import pytest
import torch
import torchaudio

from src.augment import session as log_mels
from src.augment.acoustics import incoherent_sum, mel_bands
from src.augment.base import check_kinds
from src.augment.channel import BandLimit, RandomEqualiser, WaveformBandLimit, WaveformEqualiser
from src.augment.frames import LOG_FLOOR, SpecAugment, Tempo, TimeMask
from src.augment.noise import Babble
from src.augment.room import Reverberation, RoomReverberation, draw_rooms
from src.augment.speed import MelSpeed, Speed
from src.augment.waveform import CircularShift, PitchShift
from src.base.errors import SettingError
from src.settings.config import Part
from src.settings.parts import build, catalogue

NAMES = sorted(catalogue("augment"))


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def example(name, batch=6, seed=1):
    """Return inputs of the kind that `name` fits, zero-padded, and their lengths."""
    draws = rng(seed)
    if "waveform" in catalogue("augment")[name].kinds:
        inputs, lengths = 0.1 * torch.randn((batch, 4000), generator=draws), [4000, 2900, 3999, 1200, 4000, 3000]
    else:
        inputs, lengths = 3 * torch.randn((batch, 50, 40), generator=draws) - 4, [50, 31, 49, 12, 50, 1]
    lengths = torch.tensor(lengths[:batch])
    for item, length in zip(inputs, lengths):
        item[length:] = 0
    return inputs, lengths


def white_log_mels(seconds, batch=1, seed=3):
    """Return the log-mels (B, T, 40) of white noise, by torchaudio."""
    mel = torchaudio.transforms.MelSpectrogram(16000, 400, 400, 160, f_min=50.0, n_mels=40)
    return mel(torch.randn((batch, 16000 * seconds), generator=rng(seed))).clamp_min(1e-9).log().transpose(1, 2)


def db(power_ratio):
    return 10 * torch.log10(power_ratio)


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    inputs, lengths = example(name)
    before = inputs.clone()
    valid = torch.arange(inputs.shape[1]) < lengths[:, None]
    always, never = build("augment", Part(name, {"prob": 1.0})), build("augment", Part(name, {"prob": 0.0}))
    altered, kept = always(inputs, lengths, rng(5))
    assert torch.equal(inputs, before), "changed its input in place"
    assert kept is lengths
    assert altered.shape == inputs.shape
    assert altered.dtype == torch.float32
    assert torch.isfinite(altered).all()
    assert torch.equal(altered[~valid], inputs[~valid]), "padding touched"
    assert not torch.equal(altered, inputs), "nothing changed"
    assert torch.equal(always(inputs, lengths, rng(5))[0], altered), "does not repeat under its generator"
    assert not torch.equal(always(inputs, lengths, rng(6))[0], altered), "the generator has no say"
    state = torch.get_rng_state()
    assert torch.equal(never(inputs, lengths, rng(5))[0], inputs), "prob = 0 changes something"
    assert torch.equal(torch.get_rng_state(), state), "draws from the global generator"


@pytest.mark.parametrize("name", NAMES)
def test_full_lengths_are_as_good_as_none(name):
    inputs, _ = example(name)
    full = inputs[:1].expand(6, -1, *[-1] * (inputs.dim() - 2)).contiguous()
    lengths = torch.full((6,), full.shape[1])
    augmentation = build("augment", Part(name, {"prob": 1.0}))
    torch.testing.assert_close(augmentation(full, lengths, rng())[0], augmentation(full, None, rng())[0])


@pytest.mark.parametrize("name", NAMES)
def test_short_items_and_silence_survive(name):
    wave = "waveform" in catalogue("augment")[name].kinds
    augmentation = build("augment", Part(name, {"prob": 1.0}))
    shortest = torch.full((2, 200), 0.01) if wave else torch.full((2, 1, 40), -5.0)
    silent = torch.zeros((1, 3000)) if wave else torch.full((1, 30, 40), LOG_FLOOR)
    for inputs in (shortest, shortest[:1], silent):
        altered, _ = augmentation(inputs, None, rng())
        assert altered.shape == inputs.shape
        assert torch.isfinite(altered).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_mixes_altered_and_clean_items(name):
    inputs, _ = example(name)
    inputs = inputs[:1].expand(200, *[-1] * (inputs.dim() - 1)).contiguous()
    altered, _ = build("augment", Part(name, {"prob": 0.5}))(inputs, None, rng())
    share = (altered != inputs).flatten(1).any(1).float().mean()
    assert 0.25 < share < 0.62  # a draw may leave an altered item as it is: no shift, speed 1


def test_wrong_kind_and_wrong_settings_are_refused():
    for name in NAMES:
        for kind in ("logmel", "cepstra", "waveform"):
            augmentation = build("augment", Part(name))
            if kind in augmentation.kinds:
                check_kinds([augmentation], kind)
            else:
                with pytest.raises(SettingError, match=type(augmentation).__name__):
                    check_kinds([augmentation], kind)
    for name, kwargs in (
        ("noise", {"snr_min_db": 30.0}), ("session", {"prob": 1.2}), ("session", {"noise_prob": 0.9}),
        ("tempo", {"change": 0.9}), ("spec_augment", {"fill": "zero"}), ("speed", {"factors": (0.9, 1.0)}),
        ("random_equaliser", {"max_db": 0.0}), ("reverberation", {"damping": 1.0}), ("babble", {"num_talkers": 0}),
    ):
        with pytest.raises(SettingError, match=name):
            build("augment", Part(name, kwargs))


def test_noise_of_the_model_fluctuates_like_noise_through_the_frontend():
    truth = white_log_mels(40)[0, 3:-3]
    drawn = incoherent_sum(torch.zeros(1, 4000, 40), torch.ones(1, 4000, 40), rng())[0].log()
    assert (drawn.std(0) / truth.std(0) - 1).abs().max() < 0.12
    assert (drawn.std(0) / truth.std(0) - 1).abs().mean() < 0.04
    variance = truth.exp().var(0) / truth.exp().mean(0) ** 2
    torch.testing.assert_close(mel_bands(40, torch.device("cpu"))[2], variance, rtol=0.15, atol=0)
    assert (drawn.exp().mean(0) - 1).abs().max() < 0.05
    drawn, truth = drawn - drawn.mean(0), truth - truth.mean(0)
    for frames in (drawn, truth):
        assert (frames[1:] * frames[:-1]).mean() / frames.square().mean() == pytest.approx(0.15, abs=0.03)


@pytest.mark.parametrize("snr", [5.0, 20.0])
@pytest.mark.parametrize("name", ["noise", "babble"])
def test_snr_on_log_mels_is_the_one_asked_for(name, snr):
    inputs = white_log_mels(30, batch=4) + 3 * torch.sin(torch.arange(3001) / 7)[None, :, None]
    lengths = torch.tensor([3001, 2000, 3001, 2500])
    augmentation = build("augment", Part(name, {"snr_min_db": snr, "snr_max_db": snr}))
    altered, _ = augmentation(inputs, lengths, rng())
    for before, after, length in zip(inputs.double().exp(), altered.double().exp(), lengths):
        realised = db(before[:length].sum() / (after - before)[:length].sum())
        assert float(realised) == pytest.approx(snr, abs=0.3 if snr < 10 else 0.8)  # cross terms average out slowly


@pytest.mark.parametrize("snr", [0.0, 20.0])
@pytest.mark.parametrize("name", ["waveform_noise", "waveform_babble"])
def test_snr_on_waveforms_is_the_one_asked_for(name, snr):
    inputs, lengths = example(name)
    altered, _ = build("augment", Part(name, {"snr_min_db": snr, "snr_max_db": snr}))(inputs, lengths, rng())
    realised = db(inputs.square().sum(1) / (altered - inputs).square().sum(1))
    assert torch.allclose(realised, torch.tensor(snr), atol=0.05)


def test_babble_is_made_of_other_items():
    """With one talker, the babble of item 0 of two is item 1, read from some frame on."""
    inputs = torch.stack([white_log_mels(1)[0], white_log_mels(1, seed=9)[0]]) - 2
    altered, _ = Babble(-60.0, -60.0, num_talkers=1)(inputs, None, rng())
    fits = [torch.corrcoef(torch.stack([altered[0].ravel(), inputs[k].roll(-shift, 0).ravel()]))[0, 1]
            for k in (0, 1) for shift in range(inputs.shape[1])]
    assert max(fits[: len(fits) // 2]) < 0.9
    assert max(fits[len(fits) // 2 :]) > 0.999


def test_equalisers_are_constant_over_time_and_differ_by_item():
    inputs, lengths = example("random_equaliser", batch=5)
    altered, _ = RandomEqualiser(curve_db=6.0, bell_db=12.0, max_db=8.0)(inputs + 10, lengths, rng())
    gains = [(a - b)[:n] for a, b, n in zip(altered, inputs + 10, lengths)]
    for gain in gains:
        assert torch.allclose(gain, gain[:1].expand_as(gain), atol=1e-4)
        assert 0.5 < float(gain.abs().max()) <= 8.0 * math.log(10) / 10 + 1e-4
    assert not torch.allclose(gains[0][0], gains[1][0], atol=0.1)

    impulse = torch.zeros(2, 8000)
    impulse[:, 3000], impulse[:, 6000] = 1.0, 1.0
    response, _ = WaveformEqualiser()(impulse, None, rng())
    assert torch.allclose(response[:, 2600:3400], response[:, 5600:6400], atol=1e-4)
    assert int(response[0].abs()[:4500].argmax()) == 3000  # no delay
    level = torch.fft.rfft(response[:, 2000:4000]).abs()
    assert float((level[0] / level[1]).log().abs().max()) > 0.1


@pytest.mark.parametrize("rt60", [0.25, 0.8])
def test_reverberation_decays_as_drawn(rt60):
    inputs = torch.full((64, 120, 40), LOG_FLOOR)
    inputs[:, 10] = 5.0
    room = Reverberation(rt60, rt60, 0.0, 0.0, damping=0.5)
    altered, _ = room(inputs, None, rng())
    assert float(altered[:, :10].max()) < LOG_FLOOR + 3, "sound before its cause"
    tail = altered[:, 12:32].exp().mean(0)  # mean over items, as each fluctuates
    slopes = db(tail)[-1].sub(db(tail)[0]) / 19
    assert -60 * 0.01 / float(slopes[:3].mean()) == pytest.approx(rt60, rel=0.15)
    assert float(slopes[-3:].mean()) < 1.1 * float(slopes[:3].mean()), "high bands do not decay faster"
    steady, _ = room(torch.zeros(8, 600, 40), None, rng())
    assert float(db(steady[:, 300:].exp().mean())) == pytest.approx(0.0, abs=0.3)
    decay = 10 ** (-6 * 0.01 / rt60)  # at 0 dB, half of the power is direct and 1 - decay of the rest comes at once
    even = Reverberation(rt60, rt60, 0.0, 0.0, damping=0.0)(inputs, None, rng())[0].exp()
    at_once = float(db(even[:, 10].sum() / even[:, 11:].sum()))
    assert at_once == pytest.approx(10 * math.log10((2 - decay) / decay), abs=0.3)


def test_band_limit_removes_the_right_bands():
    inputs = white_log_mels(2, batch=8)
    centres = mel_bands(40, inputs.device)[0]
    for share, gone, kept in ((1.0, (centres > 4700) | (centres < 130), (centres > 500) & (centres < 2700)),
                              (0.0, centres > 6200, centres < 3400)):
        altered, _ = BandLimit(share, cut_min_hz=4000.0, cut_max_hz=5000.0)(inputs, None, rng())
        change = db(altered.exp().mean((0, 1)) / inputs.exp().mean((0, 1)))
        assert float(change[gone].max()) < -10
        assert float(change[kept].abs().max()) < 0.5
        above = db(altered.exp().mean((0, 1)) / altered.exp().mean((0, 1)).max())[centres > 6700]
        assert float(above.min()) > -80
        assert float(above.max()) < -40

    wave = 0.1 * torch.randn((4, 32000), generator=rng())
    altered, _ = WaveformBandLimit(1.0)(wave, None, rng())
    hertz = torch.linspace(0, 8000, 16001)
    change = db(torch.fft.rfft(altered).abs().square().sum(0) / torch.fft.rfft(wave).abs().square().sum(0))
    assert float(change[hertz > 5000].mean()) < -30
    assert float(change[(hertz > 600) & (hertz < 2500)].mean()) > -0.5


def test_masks_cover_what_they_may():
    inputs, lengths = example("spec_augment")
    inputs = inputs.abs() + 1
    altered, _ = SpecAugment(2, 8, 2, 10, fill="floor")(inputs, lengths, rng())
    lost = altered == LOG_FLOOR
    assert lost.all(1).sum(1).max() <= 16
    assert (lost.all(2).sum(1) <= 2 * (lengths // 5)).all()
    widths = [int((TimeMask(1, 10)(inputs[:1], None, rng(seed))[0] != inputs[:1]).any(2).sum()) for seed in range(60)]
    assert set(widths) == set(range(11))
    for augmentation, dim, most in ((SpecAugment(1, 8, 0, 0), 0, 8), (SpecAugment(0, 0, 1, 10), 1, 10)):
        lost = [augmentation(inputs[:1], None, rng(seed))[0] != inputs[:1] for seed in range(80)]
        assert {int(one[0].all(dim).sum()) for one in lost} == set(range(most + 1))
        filled = augmentation(inputs[:1], None, rng(1))[0]
        assert torch.equal(filled[lost[1]], inputs[:1].mean(1, keepdim=True).expand_as(filled)[lost[1]])
    masked, _ = TimeMask(1, 10)(inputs, lengths, rng(1))
    rows = (masked != inputs).any(2)
    mean = torch.stack([item[:length].mean(0) for item, length in zip(inputs, lengths)])
    assert torch.allclose(masked[rows], mean.repeat_interleave(rows.sum(1), 0), atol=1e-5)


def test_tempo_moves_time_by_its_factor_and_wraps():
    frames = torch.arange(60.0)[None, :, None].expand(2, -1, 3)
    lengths = torch.tensor([60, 40])
    altered = Tempo().apply(frames, lengths, torch.tensor([[1.25], [0.8]]))
    expected = torch.arange(60) * 1.25
    assert torch.allclose(altered[0, :47, 0], expected[:47])
    assert torch.allclose(altered[0, 48:, 0], expected[48:] - 60)
    assert torch.allclose(altered[1, :40, 1], torch.arange(40) * 0.8)


def test_circular_shift_is_that_of_numpy():
    waveform = torch.randn((2, 5000), generator=rng())
    altered = CircularShift().apply(waveform, torch.tensor([5000, 3000]), torch.tensor([[1234], [70]]))
    assert np.array_equal(altered[0], np.roll(waveform[0], 1234))
    assert np.array_equal(altered[1, :3000], np.roll(waveform[1, :3000], 70))
    shifts = [int((CircularShift(0.01)(torch.eye(1, 900), None, rng(seed))[0]).argmax()) for seed in range(40)]
    assert min(shifts) >= 0
    assert 140 < max(shifts) < 160


def harmonic_tone(pitch, num_samples=32000):
    """Return harmonics of `pitch` Hz (1, num_samples), with silence around the middle second."""
    seconds = torch.arange(num_samples) / 16000
    tone = sum(torch.sin(2 * math.pi * pitch * k * seconds) / k for k in range(1, 6))
    return 0.1 * (tone * ((seconds > 0.5) & (seconds < 1.5)))[None]


def fundamental(waveform):
    """Return the strongest frequency of a waveform (num_samples,) in Hz."""
    size = 1 << 19
    return float(torch.fft.rfft(waveform * torch.hann_window(len(waveform)), n=size).abs().argmax()) * 16000 / size


@pytest.mark.parametrize("semitone", [-1, 1, 2])
def test_pitch_shift_moves_the_fundamental_and_keeps_the_duration(semitone):
    tone = harmonic_tone(200.0)
    shifted = PitchShift((semitone,))(tone, None, rng())[0][0]
    assert fundamental(shifted) == pytest.approx(200.0 * 2 ** (semitone / 12), rel=0.01)
    loud = (torch.nn.functional.avg_pool1d(shifted.abs()[None], 400, 100)[0] > 0.02).nonzero().ravel() * 100 / 16000
    assert float(loud[0]) == pytest.approx(0.5, abs=0.04)
    assert float(loud[-1] - loud[0]) == pytest.approx(1.0, abs=0.05)
    assert float(shifted.square().mean() / tone.square().mean()) == pytest.approx(1.0, abs=0.2)


def test_mel_speed_is_the_log_mel_of_speech_played_faster():
    time_s = torch.arange(32000) / 16000
    sweep = torch.sin(2 * math.pi * (700 * time_s + 250 * time_s.square()))[None]  # 700 Hz, 500 Hz more every second
    mel = torchaudio.transforms.MelSpectrogram(16000, 400, 400, 160, f_min=50.0, n_mels=40)

    def loudest(waveform):
        return mel(waveform).clamp_min(1e-9).log().transpose(1, 2).softmax(2) @ torch.arange(40.0)

    for index, factor in enumerate((1.0, 0.9, 1.1)):
        played = torchaudio.functional.resample(sweep, round(factor * 10), 10)
        warped = MelSpeed().apply(mel(sweep).clamp_min(1e-9).log().transpose(1, 2), None, torch.tensor([index]))
        found, expected = warped.softmax(2) @ torch.arange(40.0), loudest(played)
        frames = min(found.shape[1], expected.shape[1]) - 20
        assert (found[0, 5:frames] - expected[0, 5:frames]).abs().mean() < 0.35, "bands"
    copies = MelSpeed().draw(300, rng())
    assert set(copies.tolist()) == {0, 1, 2}


def test_speed_moves_pitch_and_duration_and_names_its_factor():
    speed = Speed()
    index = speed.draw(3000, rng())
    assert torch.bincount(index).tolist() == pytest.approx([1000, 1000, 1000], abs=100)
    assert (Speed(prob=0.0).draw(100, rng()) == 0).all()
    tone = harmonic_tone(200.0).expand(3, -1)
    slow_fast = speed.apply(tone, None, torch.tensor([0, 1, 2]))
    assert torch.equal(slow_fast[0], tone[0])
    for item, factor in ((slow_fast[1], 0.9), (slow_fast[2], 1.1)):
        assert fundamental(item) == pytest.approx(200.0 * factor, rel=0.002)
        loud = (item.abs() > 0.05).nonzero().ravel()
        assert float(loud[-1] - loud[0]) / 16000 == pytest.approx(1 / factor, abs=0.01)
    short = speed.apply(tone[:1, :20000].clone(), torch.tensor([15000]), torch.tensor([2]))
    again = speed.apply(tone[:1, :15000], None, torch.tensor([2]))
    assert torch.allclose(short[:, :13000], again[:, :13000], atol=1e-5)


def test_rooms_decay_as_drawn_and_start_with_the_direct_sound():
    responses, rt60 = draw_rooms(24, 0.2, 0.8, 0.3, 2.5, rng())
    assert torch.allclose(responses.square().sum(1), torch.ones(24), atol=1e-4)
    assert (responses[:, :3].abs().amax(1) > 0).all()
    assert (responses.abs().argmax(1) < 800).all()
    hertz = torch.linspace(0, 8000, 16385)
    middle = torch.sigmoid((1400 - hertz) / 60) * torch.sigmoid((hertz - 150) / 30)
    below = torch.fft.irfft(torch.fft.rfft(responses.double(), n=32768) * middle)[:, : responses.shape[1]]
    for response, seconds in zip(below, rt60):  # backward integration (Schroeder, 1965) from 60 ms on, over 20 dB
        level = db(response.square().flip(0).cumsum(0).flip(0))[960:]
        level = level[level > level[0] - 20].numpy()
        slope = np.polyfit(np.arange(len(level)) / 16000, level, 1)[0]
        assert -60 / slope == pytest.approx(float(seconds), rel=0.15)
    again, _ = draw_rooms(24, 0.2, 0.8, 0.3, 2.5, rng())
    assert torch.equal(responses, again)


def test_room_reverberation_convolves_in_time():
    inputs = torch.zeros(1, 30000)
    inputs[0, 5000] = 1.0
    room = RoomReverberation(num_rooms=1)
    altered, _ = room(inputs, None, rng())
    assert float(altered[0, :4999].abs().max()) < 1e-5, "sound before its cause"
    torch.testing.assert_close(altered[0, 5000:15000], room.bank[0, :10000], rtol=0.02, atol=1e-5)


def test_session_leaves_its_clean_share_and_stays_quick():
    frames = white_log_mels(2, batch=64)[:, :200].contiguous()
    session = log_mels.Session(prob=0.6)
    altered, _ = session(frames.repeat(8, 1, 1), None, rng())
    assert float((altered == frames.repeat(8, 1, 1)).all(2).all(1).float().mean()) == pytest.approx(0.4, abs=0.07)
    best = min(_seconds(session, frames) for _ in range(5))
    assert best < 0.25, f"{1000 * best:.0f} ms for 64 crops of 200 frames"  # 25 ms when nothing else runs


def _seconds(augmentation, inputs):
    begun = time.process_time()  # whatever else runs
    augmentation(inputs, None, rng())
    return time.process_time() - begun
