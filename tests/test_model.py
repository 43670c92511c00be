"""The composed model: padding, copies folded back, a checkpoint that rebuilds itself and carries no code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src import experiments
from src.adapt import DataSummary, adapt
from src.config import override, part
from src.encoders import layers
from src.errors import InputError
from src.model import SpeakerModel, load_model, save_model

SMALL = {"encoder": part("transformer", d_model=16, num_heads=2, feed_forward_dim=32), "frontend.mean_norm": True,
         "embedding.dim": 12, "embedding.batch_norm": True, "pooling": "attentive_statistics"}


def make(kind="logmel", **changes):
    summary = DataSummary(kind, 100, 5, 200)
    experiment = adapt(override(experiments.get("course"), {**SMALL, **changes}), summary)
    torch.manual_seed(0)
    return SpeakerModel(experiment, kind, 40 if kind == "logmel" else 0, 7).eval(), experiment


def test_a_padded_waveform_batch_gives_each_utterance_alone():
    model, _ = make("waveform", **{"features.store": "waveform"})
    waveforms = [torch.randn(n) * 0.1 for n in (16000, 9000, 401, 50)]
    lengths = torch.tensor([len(w) for w in waveforms])
    batch = torch.zeros(4, 16000)
    for row, waveform in zip(batch, waveforms):
        row[: len(waveform)] = waveform
    with torch.inference_mode():
        together = model(*model.extract(batch, lengths))
        alone = torch.cat([model(*model.extract(w[None], None)) for w in waveforms])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_mean_normalisation_forgets_a_constant_gain():
    model, _ = make()
    frames = torch.randn(2, 50, 40)
    gain = torch.randn(2, 1, 40)
    lengths = torch.tensor([50, 30])
    with torch.inference_mode():
        torch.testing.assert_close(model(frames + gain, lengths), model(frames, lengths), atol=1e-4, rtol=1e-4)


def test_both_is_the_frames_and_the_same_less_their_mean():
    model, _ = make(**{"frontend.mean_norm": "both"})
    frames, lengths = torch.randn(2, 50, 40), torch.tensor([50, 30])
    frames[1, 30:] = 0
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        model(frames, lengths)
    for item, length in zip((0, 1), lengths):
        whole = frames[item, :length]
        torch.testing.assert_close(seen[0][item, :length], torch.cat([whole, whole - whole.mean(0)], 1))
    torch.testing.assert_close(seen[0][1, 30:], torch.zeros(20, 80))


def test_copies_are_folded_back_by_summing_posteriors():
    _, experiment = make()
    torch.manual_seed(0)
    model = SpeakerModel(experiment, "logmel", 40, 7, num_copies=3).eval()
    frames = torch.randn(4, 30, 40)
    with torch.inference_mode():
        folded = model(frames).softmax(1)
        every = model(frames, None, torch.zeros(4, dtype=torch.long))
        assert every.shape == (4, 21)
        expected = model.head(model.embed(frames)).softmax(1).view(4, 3, 7).sum(1)
    torch.testing.assert_close(folded, expected)


def test_a_checkpoint_rebuilds_the_model(tmp_path):
    model, experiment = make()
    frames = torch.randn(3, 20, 40)
    save_model(tmp_path / "model.pt", model, experiment, "logmel", 40, tuple("abcdefg"))
    again, same, speakers = load_model(tmp_path / "model.pt")
    assert (same, speakers) == (experiment, tuple("abcdefg"))
    with torch.inference_mode():
        assert torch.equal(again(frames), model(frames))


class Code:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_a_checkpoint_with_code_a_torn_and_a_foreign_one_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, experiment = make()
    save_model(tmp_path / "whole.pt", model, experiment, "logmel", 40, tuple("abcdefg"))
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "torn.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"model": Code()}, tmp_path / "code.pt")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("torn.pt", "code.pt", "foreign.pt", "list.pt", "none.pt"):
        with pytest.raises(InputError, match=name):
            load_model(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("scale", [1.0, 50.0, 400.0], ids=lambda scale: f"scores_x{scale:g}")  # e^x ends at x = 88
@pytest.mark.parametrize("block", [1, 100, 700, 10**9])
@pytest.mark.parametrize("lengths", [None, [33, 33, 7, 2, 1], [3, 33, 1, 32, 5]])
def test_attention_in_blocks_equals_the_whole(block, lengths, scale, monkeypatch):
    monkeypatch.setattr(layers, "ATTENTION_BLOCK", block)
    query, key, value = torch.randn(3, 5, 2, 33, 8)
    query, sizes = query * scale, lengths or [33] * 5
    for i, size in enumerate(sizes):  # leftovers in the padding, as a layer before makes them
        value[i, :, size:] = torch.nan
    with torch.inference_mode():
        attended = layers.attend_in_blocks(query, key, value, torch.tensor(lengths) if lengths else None)
    for i, size in enumerate(sizes):
        weights = torch.softmax(query[i, :, :size] @ key[i, :, :size].transpose(1, 2) / 8**0.5, 2)
        torch.testing.assert_close(attended[i, :, :size], weights @ value[i, :, :size], rtol=1e-5, atol=1e-5 * scale)
    with torch.inference_mode():  # and it is what inference in bfloat16 runs
        calls = []
        monkeypatch.setattr(layers, "attend_in_blocks", lambda *args: calls.append(args))
        layers.attend(query, key, value, None)
        layers.attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), None)
    assert len(calls) == 1


def test_a_bfloat16_depthwise_convolution_returns():
    """Shapes at which oneDNN's own never does on two threads, in a process that can be stopped."""
    code = """
import torch
from src.encoders.layers import Conv1d
torch.set_num_threads(2)
for batch, frames, channels, kernel in ((29, 538, 144, 31), (29, 540, 144, 15), (11, 584, 80, 31), (1, 1190, 144, 15)):
    convolution = Conv1d(channels, channels, kernel, groups=channels)
    values = torch.randn(batch, frames, channels)
    plain = convolution(values)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        mixed = convolution(values.bfloat16())
    assert mixed.dtype == torch.bfloat16 and torch.allclose(mixed.float(), plain, atol=0.03)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=Path(__file__).parents[1])
