"""Degradations of waveforms: the contract of all conditions, and each effect against what it claims, measured."""

import ast
import itertools
from pathlib import Path

import numpy as np
import pytest

from src.shift import degrade as module
from src.shift.degrade import CONDITIONS, add_babble, add_noise, degrade, equalise, generator, low_bitrate, telephone
from tests.support.competitions import voice

VOICES = [voice(speaker, 0, 0.7) for speaker in range(8)]
RATE = 16000


def power(waveform):
    return np.mean(np.square(waveform, dtype=np.float64))


def density_db(waveform, low, high):
    """Return the mean power density between two frequencies in dB."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))) ** 2
    hertz = np.fft.rfftfreq(len(waveform), 1 / RATE)
    return 10 * np.log10(spectrum[(hertz >= low) & (hertz < high)].mean())


def white(seconds, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_keeps_length_peak_and_silence_and_changes_speech(condition):
    clean = voice(0, 1, 0.6)
    kept = clean.copy()
    for num_samples in (1, 5, 399, 700, 9600):
        for take in range(3):
            degraded = degrade(clean[:num_samples], condition, generator(condition, "a", take), VOICES)
            assert degraded.shape == (num_samples,)
            assert degraded.dtype == np.float32
            assert np.isfinite(degraded).all()
            assert np.abs(degraded).max() <= 10 ** (-3 / 20) + 1e-6
    assert np.abs(degraded).max() == pytest.approx(10 ** (-3 / 20), rel=1e-5)
    np.testing.assert_array_equal(clean, kept)
    scaled = clean * 10 ** (-3 / 20) / np.abs(clean).max()
    assert power(degraded - scaled) > 1e-3 * power(scaled)
    assert not degrade(np.zeros(4000, np.float32), condition, generator(condition, "a"), VOICES).any()


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_copy_is_drawn_from_condition_utterance_and_number_alone(condition):
    def copy(utt_id, number):
        return degrade(VOICES[0][:6000], condition, generator(condition, utt_id, number), VOICES[1:])

    np.testing.assert_array_equal(copy("a", 0), copy("a", 0))
    assert not np.array_equal(copy("a", 0), copy("a", 1))
    assert not np.array_equal(copy("a", 0), copy("b", 0))


def test_the_generator_is_the_same_everywhere():
    draws = {generator(*key).integers(1 << 32) for key in
             [("noise", "a", 0), ("noise", "a", 1), ("noise", "b", 0), ("babble", "a", 0), ("noise", "a\0", 0)]}
    assert len(draws) == 5
    assert generator("noise", "train/SPEAKER0001/1.opus").integers(1 << 32) == 3437911268


def test_unknown_conditions_and_babble_without_voices_are_refused():
    with pytest.raises(ValueError, match="unknown condition 'echo'; use one of equaliser, noise"):
        degrade(VOICES[0], "echo", generator("echo", "a"))
    with pytest.raises(ValueError, match="other speakers"):
        degrade(VOICES[0], "babble", generator("babble", "a"))


@pytest.mark.parametrize("condition", [name for name in CONDITIONS if name not in ("equaliser", "mixed")])
def test_a_condition_is_its_effect_and_another_microphone(condition, monkeypatch):
    called = spy_on_effects(monkeypatch)
    degrade(VOICES[0][:800], condition, generator(condition, "a"), VOICES)
    assert set(called) == {condition, "equaliser"}
    assert len(called) == 2


def test_mixed_sessions_are_two_effects_or_more_in_the_order_of_the_way_to_the_listener(monkeypatch):
    called, order, seen = spy_on_effects(monkeypatch), [*EFFECTS], []
    for number in range(400):
        called.clear()
        degrade(VOICES[0][:100], "mixed", generator("mixed", "a", number), VOICES)
        assert called == sorted(called, key=order.index)
        assert "equaliser" in called
        assert len(called) >= 3
        assert not {"noise", "babble"} <= set(called)
        seen.append(set(called) - {"equaliser"})
    shares, total = dict.fromkeys(module.EFFECT_PROBS, 0.0), 0.0  # independent draws but for babble, given two or more
    p = module.EFFECT_PROBS
    for r, n, t, c in itertools.product((True, False), ("noise", "babble", None), (True, False), (True, False)):
        effects = {name for name, on in (("reverberation", r), (n, n), ("telephone", t), ("bitrate", c)) if on}
        chance = p[n] if n else 1 - p["noise"] - p["babble"]
        for name, on in (("reverberation", r), ("telephone", t), ("bitrate", c)):
            chance *= p[name] if on else 1 - p[name]
        if len(effects) > 1:
            total += chance
            shares |= {name: shares[name] + chance for name in effects}
    for name, share in shares.items():
        assert sum(name in effects for effects in seen) / len(seen) == pytest.approx(share / total, abs=0.07), name


EFFECTS = {"reverberation": "reverberate", "noise": "add_noise", "babble": "add_babble", "equaliser": "equalise",
           "telephone": "telephone", "bitrate": "low_bitrate"}


def spy_on_effects(monkeypatch):
    """Replace every effect by one that does nothing but note its name; return the list of names."""
    called = []
    for name, function in EFFECTS.items():
        monkeypatch.setattr(module, function, lambda waveform, *_, name=name: called.append(name) or waveform)
    return called


def test_the_microphone_delays_nothing_and_shapes_the_spectrum_by_some_decibels():
    impulse, curves = np.zeros(8001), []
    impulse[4000] = 1
    for number in range(30):
        response = equalise(impulse, generator("equaliser", "a", number))
        assert np.argmax(np.abs(response)) == 4000
        np.testing.assert_allclose(response, response[::-1], atol=1e-9)  # linear phase
        spectrum = np.fft.rfft(response)
        hertz = np.fft.rfftfreq(len(response), 1 / RATE)
        curves.append([20 * np.log10(np.abs(spectrum[np.abs(hertz - at).argmin()])) for at in (250, 1000, 3000, 6000)])
    spread = np.std(curves, axis=0)
    assert ((spread > 1) & (spread < 5)).all()


def test_noise_has_the_drawn_ratio_and_every_kind_of_noise_comes():
    clean, ratios = voice(0, 2, 1.0).astype(np.float64), []
    for number in range(40):
        noise = add_noise(clean, generator("noise", "a", number)) - clean
        ratios.append(10 * np.log10(power(clean) / power(noise)))
    low, high = module.SNR_DB
    assert low <= min(ratios) < low + 4 < high - 4 < max(ratios) <= high


def test_every_kind_of_noise_is_its_own():
    figures = {}
    for kind in (module._coloured, module._hum, module._clicks, module._engine):
        assert len(kind(1, np.random.default_rng(0))) == 1
        rows = []
        for seed in range(8):
            noise = kind(32000, np.random.default_rng(seed))
            level_db = 10 * np.log10([power(frame) for frame in noise.reshape(-1, 400)])
            spectrum = np.sort(np.abs(np.fft.rfft(noise * np.hanning(len(noise)))) ** 2)
            peak = np.abs(noise).max() / np.sqrt(power(noise))
            rows.append((level_db.std(), peak, spectrum[-100:].sum() / spectrum.sum()))
        figures[kind] = np.mean(rows, axis=0)
    unsteady, peaky, tonal = np.array(list(figures.values())).T
    assert (unsteady[[2, 3]] > 1.5 * unsteady[0]).all()
    assert (unsteady[:2] < 2.5).all()
    assert peaky[2] > 10 > 7 > peaky[[0, 1, 3]].max()
    assert tonal[1] > 0.9 > 0.7 > tonal[[0, 2, 3]].max()


def test_babble_is_a_sum_of_the_voices_at_the_drawn_ratio():
    time_s = np.arange(8000) / RATE  # every voice a tone of its own with whole periods, so that wrapping keeps it one
    tones = [np.sin(2 * np.pi * 100 * (i + 2) * time_s).astype(np.float32) * (i + 1) for i in range(9)]
    clean, ratios, numbers = white(1.0), [], set()
    for number in range(30):
        babble = add_babble(clean, generator("babble", "a", number), tones) - clean
        ratios.append(10 * np.log10(power(clean) / power(babble)))
        amplitude = np.abs(np.fft.rfft(babble))[[100 * (i + 2) for i in range(9)]] / (len(babble) / 2)
        assert (amplitude**2 / 2).sum() == pytest.approx(power(babble), rel=1e-3)  # nothing else is in it
        heard = amplitude[amplitude > 1e-6]
        assert heard.max() / heard.min() < 10 ** (8.1 / 20)  # whatever the level of the recordings
        numbers.add(len(heard))
    assert numbers == {3, 4, 5, 6, 7}
    low, high = module.SNR_DB
    assert low <= min(ratios) < low + 5 < high - 5 < max(ratios) <= high


@pytest.mark.parametrize("rt60_s", [0.3, 0.9])
def test_a_room_decays_as_drawn_behind_its_direct_sound(rt60_s, monkeypatch):
    monkeypatch.setattr(module, "RT60_S", (rt60_s, rt60_s))
    monkeypatch.setattr(module, "DRR_DB", (3.0, 3.0))
    impulse = np.zeros(RATE * 3 // 2)
    impulse[100] = 1
    response = module.reverberate(impulse, np.random.default_rng(1))
    assert not np.abs(response[:100]).max() > 1e-9
    assert response[100] == pytest.approx(1)
    tail = response[101:]
    assert -10 * np.log10(np.sum(tail**2)) == pytest.approx(3.0, abs=0.05)
    low = np.convolve(tail, np.ones(16) / 16)  # the part that decays at the drawn rate, by Schroeder's integral
    left_db = 10 * np.log10(np.cumsum(low[::-1] ** 2)[::-1] / np.sum(low**2) + 1e-12)
    falls = [np.flatnonzero(left_db < -level)[0] / RATE for level in (5, 25)]
    assert 3 * (falls[1] - falls[0]) == pytest.approx(rt60_s, rel=0.2)


def test_a_telephone_keeps_its_band_and_little_else():
    clean = white(1.0)
    for number in range(12):
        received = telephone(clean, generator("telephone", "a", number))
        passed = density_db(received, 500, 2500)
        assert 50 < passed - density_db(received, 4400, 8000) < 75
        assert passed - density_db(received, 20, 90) > 10
        assert abs(density_db(received, 500, 1500) - density_db(received, 1500, 2500)) < 3


def test_codecs_keep_time_and_lose_detail(monkeypatch):
    clean = white(1.2) * np.repeat(np.random.default_rng(5).random(24) > 0.5, 800)  # bursts of 50 ms
    formats, write = [], module.soundfile.write

    def spy(file, *args, **settings):
        write(file, *args, **settings)
        formats.append((settings["subtype"], len(file.getvalue()) * 8 / 1200))

    monkeypatch.setattr(module.soundfile, "write", spy)
    for effect, names in ((telephone, {"ULAW", "ALAW", "GSM610", "MS_ADPCM", "G721_32"}),
                          (low_bitrate, {"OPUS", "VORBIS"})):
        for number in range(14):
            coded = effect(clean, generator("bitrate", "a", number))
            before, after = (np.square(w).reshape(-1, 16).mean(1) for w in (clean, coded))  # a value a millisecond
            lags = [np.dot(before[100:-100], after[100 + lag : len(after) - 100 + lag]) for lag in range(-90, 91)]
            assert abs(np.argmax(lags) - 90) <= 4, formats[-1]
            assert np.corrcoef(clean, coded)[0, 1] < 0.9999
            if effect is low_bitrate:
                assert formats[-1][1] < {"OPUS": 20}.get(formats[-1][0], 50), formats[-1]
                assert abs(density_db(coded, 5000, 7000) - density_db(clean, 5000, 7000)) < 12, formats[-1]
        assert {name for name, _ in formats} == names
        formats.clear()


def test_it_shares_nothing_with_the_augmentation_of_training():
    tree = ast.parse(Path(module.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(name.split(".")[0] in ("src", "torch", "torchaudio") for name in names)
