"""The composed model: padding, copies folded back, a checkpoint that rebuilds itself and carries no code."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from src import experiments
from src.base.errors import InputError
from src.model import layers
from src.model.checkpoint import load_model, save_model
from src.model.kernels import attention, dense
from src.model.speaker_model import SpeakerModel
from src.settings.auto import DataSummary, adapt
from src.settings.config import override, part
from src.store.store import Store
from src.training.evaluate import predict

SMALL = {"encoder": part("transformer", d_model=16, num_heads=2, feed_forward_dim=32), "frontend.mean_norm": True,
         "embedding.dim": 12, "embedding.batch_norm": True, "pooling": "attentive_statistics"}


def make(kind="logmel", **changes):
    summary = DataSummary(kind, 100, 5, 200)
    experiment = adapt(override(experiments.get("course"), {**SMALL, **changes}), summary)
    torch.manual_seed(0)
    return SpeakerModel(experiment, kind, 40 if kind == "logmel" else 0, 7).eval(), experiment


@pytest.mark.parametrize("crops", [0, 3])
@pytest.mark.parametrize("kind", ["logmel", "waveform"])
def test_predictions_are_those_of_each_utterance_alone_whatever_runs_side_by_side(kind, crops, monkeypatch):
    """Also what `infer.crops` averages, and that the threads are as they were."""
    model, experiment = make(kind, **{"features.store": "waveform"} if kind == "waveform" else {})
    unit, dim = (160, ()) if kind == "waveform" else (1, (40,))
    num_frames = np.array([90, 31, 57, 8, 130, 64, 31]) * unit
    flat = torch.randn(int(num_frames.sum()), *dim)
    flat = (flat * 3000).short() if kind == "waveform" else flat.half()
    store = Store(Path(), "", kind, 40 if dim else 0, tuple("abcdefg"), {"hop_length": 160}, [""] * 7, np.full(7, -1),
                  [""] * 7, [""] * 7, np.arange(0), np.arange(7), np.cumsum(num_frames) - num_frames, num_frames,
                  flat.numpy(), flat)
    experiment = override(experiment, {"infer.crops": crops, "infer.frame_budget": 200, "train.crop_frames": 32,
                                       "train.precision": "float32", "train.device": "cpu"})
    rows, threads, found = np.array([4, 0, 6, 3, 2, 5, 1]), torch.get_num_threads(), {}
    order, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda *args: (order.append(threading.get_ident()), forward(*args))[1])
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        try:
            found[count] = predict(model, store, rows, experiment.train, experiment.infer)
            assert torch.get_num_threads() == count
        finally:
            torch.set_num_threads(threads)
        assert (set(order) == {threading.get_ident()}) == (count == 1)
        order.clear()
    np.testing.assert_array_equal(found[1], found[2])
    np.testing.assert_allclose(found[1], found[5], rtol=1e-5, atol=1e-5)
    for row, logits in zip(rows, found[1]):
        item = store.utterances([row]).inputs
        size = min(32 * unit, item.shape[1])
        starts = [(item.shape[1] - size) * i // 2 for i in range(3)] if crops else []
        with torch.inference_mode():
            alone = [forward(*model.extract(piece, None))
                     for piece in (item, *(item[:, start : start + size] for start in starts))]
        expected = torch.stack([each.log_softmax(1) for each in alone]).mean(0) if crops else alone[0]
        np.testing.assert_allclose(logits, expected[0], rtol=1e-4, atol=1e-4)


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
@pytest.mark.parametrize("per_frame", [1, 3], ids=lambda per_frame: f"{per_frame}_queries_a_frame")
@pytest.mark.parametrize("lengths", [None, [33, 33, 7, 2, 1], [3, 33, 1, 32, 5]])
def test_attention_in_blocks_equals_the_whole(block, lengths, per_frame, scale, monkeypatch):
    monkeypatch.setattr(attention, "ATTENTION_BLOCK", block)
    key, value = torch.randn(2, 5, 2, 33, 8)
    query, sizes = torch.randn(5, 2, 33 * per_frame, 8) * scale, lengths or [33] * 5
    for i, size in enumerate(sizes):  # leftovers in the padding, as a layer before makes them
        value[i, :, size:] = torch.nan
    with torch.inference_mode():
        attended = attention.attend_in_blocks(query, key, value, torch.tensor(lengths) if lengths else None)
    for i, size in enumerate(sizes):
        asking = query[i, :, : size * per_frame]
        weights = torch.softmax(asking @ key[i, :, :size].transpose(1, 2) / 8**0.5, 2)
        torch.testing.assert_close(attended[i, :, : size * per_frame], weights @ value[i, :, :size],
                                   rtol=1e-5, atol=1e-5 * scale)


def test_attention_in_blocks_is_what_inference_in_bfloat16_runs_without_matrix_units(monkeypatch):
    calls, (query, key, value) = [], torch.randn(3, 5, 2, 33, 8)
    monkeypatch.setattr(attention, "attend_in_blocks", lambda *args: calls.append(args))
    for has_matrix_units, most in ((True, 0), (False, 1)):
        monkeypatch.setattr(attention, "has_matrix_units", lambda found=has_matrix_units: found)
        with torch.inference_mode():
            layers.attend(query, key, value, None)
            layers.attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), None)
            layers.attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), None, per_frame=0)
        assert len(calls) == most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_linear_layer_and_its_relu_are_one_only_where_no_gradient_is_asked_for(dtype):
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16")
    layer, frames = layers.Linear(5, 7), torch.randn(3, 11, 5)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        expected = torch.relu(F.linear(frames, layer.weight, layer.bias))
        trained = dense.linear_relu(frames, layer.weight, layer.bias)
        with torch.inference_mode():
            fused = dense.linear_relu(frames, layer.weight, layer.bias)
    assert trained.requires_grad
    assert fused.is_contiguous()
    assert fused.dtype == trained.dtype == dtype
    torch.testing.assert_close(trained, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
    torch.testing.assert_close(fused, trained.detach(), rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)


def test_a_bfloat16_depthwise_convolution_returns():
    """Shapes at which oneDNN's own never does on two threads, in a process that can be stopped."""
    code = """
import torch
from torch.nn import functional as F
from src.model.layers import Conv1d
torch.set_num_threads(2)
for batch, frames, channels, kernel in ((29, 538, 144, 31), (29, 540, 144, 15), (11, 584, 80, 31), (1, 1190, 144, 15)):
    convolution = Conv1d(channels, channels, kernel, groups=channels)
    values = torch.randn(batch, frames, channels)
    plain = convolution(values)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        mixed = convolution(values.bfloat16())
    assert mixed.dtype == torch.bfloat16 and torch.allclose(mixed.float(), plain, atol=0.03)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=Path(__file__).parents[2])


def test_a_residual_network_of_eight_channels_trains():
    """In which oneDNN's own strided convolutions end the process, on two threads of a processor with AVX-512."""
    code = """
import torch
from src.settings.config import part
from src.settings.parts import build
torch.set_num_threads(2)
torch.manual_seed(0)
encoder = build("encoder", part("resnet34", base_channels=8), 12)
for _ in range(20):
    frames = torch.randn(3, 20, 12, requires_grad=True)
    encoder(frames, None)[0].square().sum().backward()
    assert frames.grad.isfinite().all()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=Path(__file__).parents[2])
