"""HuBERT against torchaudio and transformers, the CNN on log-mels, and how the two are joined."""

import json
import math

import pytest
import torch
import torchaudio
from torch import nn
from torch.nn import functional as F

from src.base.errors import SettingError
from src.model.encoders.hubert import Hubert, LogMelCNN
from src.model.norms import MaskedChannelNorm
from src.model.pretrained import load_weights, read_weights
from src.model.speaker_model import num_parameters
from src.settings.config import part
from src.settings.parts import build
from src.settings.weights import weights_digest

SMALL = {"size": "small", "dropout": 0.0, "layer_drop": 0.0}
FIXED = {"fixed_frames": 40}
VARIANTS = [("hubert", {}), ("hubert", {"layer": "mix"}), ("hubert_logmel", {"join": "sum"}),
            ("hubert_logmel", {"join": "concat"}), ("hubert_logmel", {"join": "weighted"}), ("hubert_logmel", FIXED)]
variants = pytest.mark.parametrize(("name", "kwargs"), VARIANTS, ids=str)


def make(name="hubert", seed=0, **kwargs):
    """Return a small encoder without dropout, every parameter away from its start."""
    torch.manual_seed(seed)
    encoder = build("encoder", part(name, **{**SMALL, **kwargs}), 0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return encoder


def padded(items, garbage=1e3, extra=0):
    """Return items (N_i,) padded with garbage, NaN in the last padded sample of each, and their lengths."""
    lengths = torch.tensor([len(item) for item in items])
    waveform = garbage * torch.randn(len(items), int(lengths.max()) + extra)
    for row, item in zip(waveform, items):
        if len(item) < len(row):
            row[-1] = math.nan
        row[: len(item)] = item
    return waveform, lengths


def torchaudio_twin(encoder):
    """Return torchaudio's own model of the small size, with the encoder's weights."""
    model = torchaudio.models.wav2vec2_model(
        extractor_mode="group_norm", extractor_conv_layer_config=[(64, 10, 5)] + [(64, 3, 2)] * 4 + [(64, 2, 2)] * 2,
        extractor_conv_bias=False, encoder_embed_dim=128, encoder_projection_dropout=0.0, encoder_pos_conv_kernel=128,
        encoder_pos_conv_groups=16, encoder_num_layers=2, encoder_num_heads=4, encoder_attention_dropout=0.0,
        encoder_ff_interm_features=512, encoder_ff_interm_dropout=0.0, encoder_dropout=0.0,
        encoder_layer_norm_first=False, encoder_layer_drop=0.0, aux_num_out=None)
    model.load_state_dict(encoder.hubert.state_dict())
    return model.eval()


@variants
@pytest.mark.parametrize("training", [False, True])
def test_a_padded_batch_gives_each_utterance_alone(name, kwargs, training):
    encoder = make(name, **kwargs).train(training)
    items = [0.1 * torch.randn(length) for length in (9000, 5601, 400, 3)]
    waveform, lengths = padded(items, extra=700)
    frames, num_frames = encoder(waveform, lengths)
    assert frames.shape[2] == encoder.output_dim
    assert num_frames.dtype == torch.int64
    for index, item in enumerate(items):
        alone, none = encoder(item[None], None)
        assert none is None
        assert num_frames[index] == alone.shape[1]
        torch.testing.assert_close(frames[index, : alone.shape[1]], alone[0], atol=1e-4, rtol=1e-4)


@variants
def test_every_parameter_learns_and_no_utterance_sees_another(name, kwargs):
    encoder = make(name, **kwargs).train()
    waveform = 0.1 * torch.randn(3, 8000)
    waveform.requires_grad_()
    frames, lengths = encoder(waveform, torch.tensor([8000, 6000, 300]))
    (frames[1, : lengths[1]] * torch.randn_like(frames[1, : lengths[1]])).sum().backward()
    assert waveform.grad[1, :6000].abs().sum() > 0
    assert waveform.grad[[0, 2]].abs().sum() == 0
    assert waveform.grad[1, 6000:].abs().sum() == 0
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0 or key.endswith("k_proj.bias"), key  # softmax ignores a key's bias


def test_unpadded_frames_are_torchaudios_to_the_bit_and_the_padded_are_not():
    encoder = make().eval()
    model = torchaudio_twin(encoder)
    waveform = 0.1 * torch.randn(2, 9000)
    assert torch.equal(encoder(waveform, None)[0], model(waveform)[0])
    lengths = torch.tensor([9000, 4000])
    ours, num_frames = encoder(waveform, lengths)
    theirs, their_frames = model(waveform, lengths)
    assert num_frames.tolist() == their_frames.tolist()
    alone = model(waveform[1:, :4000])[0][0]
    torch.testing.assert_close(ours[1, : len(alone)], alone, atol=1e-4, rtol=1e-4)
    assert (theirs[1, : len(alone)] - alone).abs().max() > 1e-3  # why the norm is ours


def test_masked_channel_norm_equals_the_norm_of_each_item():
    torch.manual_seed(0)
    norm = MaskedChannelNorm(6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    maps, lengths = 5 + torch.randn(3, 6, 20), torch.tensor([20, 9, 2])
    normed = norm(maps, lengths)
    for row, item, length in zip(normed, maps, lengths):
        expected = F.group_norm(item[None, :, :length], 6, norm.weight, norm.bias)[0]
        torch.testing.assert_close(row[:, :length], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["hubert", "hubert_logmel"])
def test_state_round_trip_and_bfloat16(name):
    first, second = make(name, seed=0).eval(), make(name, seed=1).eval()
    waveform, lengths = padded([0.1 * torch.randn(length) for length in (6000, 4100)])
    expected, _ = first(waveform, lengths)
    assert not torch.equal(second(waveform, lengths)[0], expected)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(waveform, lengths)[0], expected)
    with torch.autocast("cpu", torch.bfloat16):
        frames, num_frames = first.train()(waveform, lengths)
    assert (frames[0].float() - expected[0]).abs().mean() < 0.1 * expected[0].abs().mean()
    torch.cat([row[:n].float() for row, n in zip(frames, num_frames)]).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in first.parameters())


def test_a_random_start_hears_the_waveform():
    """Quiet or loud, what reaches the first norm must stand far above its epsilon, or all utterances sound alike."""
    hubert = Hubert(0, size="small").eval()
    for loudness in (0.01, 0.5):
        features, _ = hubert._convolve(loudness * torch.randn(2, 16000), None)
        assert features.var(2).mean() > 1000 * hubert.hubert.encoder.feature_projection.layer_norm.eps


def test_mix_starts_as_the_mean_of_all_layers():
    encoder = make(layer="mix").eval()
    nn.init.zeros_(encoder.mix.weights)
    waveform = 0.1 * torch.randn(1, 5000)
    outputs, _ = torchaudio_twin(encoder).extract_features(waveform)
    torch.testing.assert_close(encoder(waveform, None)[0], sum(outputs) / 2, atol=1e-5, rtol=1e-5)


# Weights


@pytest.fixture
def huggingface_model():
    """A transformers HubertModel of the small size with random weights."""
    transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
    torch.manual_seed(0)
    return transformers.HubertModel(transformers.HubertConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512, conv_dim=(64,) * 7,
        feat_proj_layer_norm=True)).eval()


def test_huggingface_layout_gives_the_frames_of_transformers(huggingface_model, tmp_path):
    huggingface_model.save_pretrained(tmp_path / "folder")
    torch.save(huggingface_model.state_dict(), tmp_path / "pytorch_model.bin")
    waveform = 0.1 * torch.randn(2, 9000)
    expected = huggingface_model(waveform).last_hidden_state
    for path in (tmp_path / "folder", tmp_path / "folder" / "model.safetensors", tmp_path / "pytorch_model.bin"):
        frames = make(weights=str(path)).eval()
        load_weights(frames.hubert, path)  # `make` moved them
        difference = (frames(waveform, None)[0] - expected).abs().max().item()
        print(f"{path.name}: largest difference to transformers {difference:.1e}")
        assert difference < 1e-5


def test_a_head_around_a_huggingface_model_is_left_out(huggingface_model, tmp_path):
    state = {f"hubert.{key}": value for key, value in huggingface_model.state_dict().items()}
    state |= {"projector.weight": torch.zeros(3, 128), "classifier.bias": torch.zeros(3)}
    torch.save(state, tmp_path / "a.bin")
    assert len(read_weights(tmp_path / "a.bin")) == len(make().hubert.state_dict())
    load_weights(make().hubert, tmp_path / "a.bin")


def test_torchaudio_layout_and_old_weight_norm_names(tmp_path):
    source = make(seed=1).eval()
    state = source.hubert.state_dict()
    torch.save(state, tmp_path / "new.pt")
    old = {key.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"): value for key, value in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "old.pt")
    for name in ("new.pt", "old.pt"):
        encoder = build("encoder", part("hubert", weights=str(tmp_path / name), **SMALL), 0)
        for key, value in encoder.hubert.state_dict().items():
            assert torch.equal(value, state[key]), key


def test_weights_that_do_not_fit_stop_with_the_file(tmp_path):
    state = make().hubert.state_dict()
    torch.save({key: value for key, value in state.items() if "layers.1" not in key}, tmp_path / "short.pt")
    torch.save({**state, "encoder.feature_projection.projection.weight": torch.zeros(99, 64)}, tmp_path / "wide.pt")
    torch.save({**state, "other": torch.zeros(1)}, tmp_path / "more.pt")
    torch.save({"model": state}, tmp_path / "nested.pt")
    (tmp_path / "torn.pt").write_bytes((tmp_path / "more.pt").read_bytes()[:5000])
    (tmp_path / "empty").mkdir()
    for name, said in (("short.pt", "are missing, such as encoder.transformer.layers.1"), ("more.pt", "unknown.*other"),
                       ("wide.pt", r"\(99, 64\), not \(128, 64\)"), ("nested.pt", "not a state dict"),
                       ("torn.pt", "torn"), ("empty", "model.safetensors"), ("absent.pt", "no such file")):
        with pytest.raises(SettingError, match=f"(?s){name}.*{said}"):
            build("encoder", part("hubert", weights=str(tmp_path / name), size="small"), 0)


def test_a_config_that_computes_something_else_stops(tmp_path):
    torch.save(make().hubert.state_dict(), tmp_path / "pytorch_model.bin")
    good = {"num_attention_heads": 4, "do_stable_layer_norm": False, "feat_extract_norm": "group", "hidden_act": "gelu",
            "conv_stride": [5, 2, 2, 2, 2, 2, 2]}
    for key, value in ((None, None), ("num_attention_heads", 8), ("do_stable_layer_norm", True),
                       ("conv_stride", [5, 2, 2, 2, 2, 2, 1]), ("hidden_act", "relu")):
        (tmp_path / "config.json").write_text(json.dumps({**good, key: value} if key else good))
        if key is None:
            load_weights(make().hubert, tmp_path)
        else:
            with pytest.raises(ValueError, match=f"config.json: {key}"):
                load_weights(make().hubert, tmp_path)


def test_digest_is_of_the_content(tmp_path):
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
    first = weights_digest(tmp_path / "a")
    assert first == weights_digest(tmp_path / "b") != weights_digest(tmp_path / "c")
    (tmp_path / "a").write_bytes(b"longer")
    assert weights_digest(tmp_path / "a") != first
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").write_bytes(b"one")
    without = weights_digest(tmp_path / "folder")
    (tmp_path / "folder" / "config.json").write_text("{}")
    assert weights_digest(tmp_path / "folder") != without


# The picture beside it


def torch_cnn(cnn):
    """Return seed 000's network with the CNN's weights."""
    network = nn.Sequential(nn.Conv2d(1, 32, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Conv2d(32, 64, 3, 1, 1),
                            nn.ReLU(), nn.MaxPool2d(2, 2))
    network[0].load_state_dict(cnn.conv1.state_dict())
    network[3].load_state_dict(cnn.conv2.state_dict())
    return network


def test_fixed_picture_is_seed_000s_network():
    torch.manual_seed(0)
    cnn = LogMelCNN(12, dim=7, fixed_frames=21)
    assert cnn.linear.in_features == 64 * 3 * 5
    frames = torch.randn(2, 21, 12)
    maps = torch_cnn(cnn)(frames.transpose(1, 2)[:, None])  # the seed's picture: (bands, frames)
    expected = cnn.linear(maps.permute(0, 3, 1, 2).flatten(1))
    turned = LogMelCNN(12, dim=7, fixed_frames=21)
    turned.load_state_dict(cnn.state_dict())
    for convolution in (turned.conv1, turned.conv2):  # ours is (frames, bands): the kernels turn with it
        convolution.weight.data = convolution.weight.data.transpose(2, 3).contiguous()
    vector, lengths = turned(frames, None)
    assert vector.shape == (2, 1, 7)
    assert lengths is None
    torch.testing.assert_close(vector[:, 0], expected, atol=1e-5, rtol=1e-5)


def test_fixed_picture_cuts_the_longer_and_fills_up_the_shorter():
    cnn = LogMelCNN(12, dim=7, fixed_frames=20)
    frames = torch.randn(2, 30, 12)
    vectors, lengths = cnn(frames, torch.tensor([30, 13]))
    assert lengths.tolist() == [1, 1]
    torch.testing.assert_close(vectors[:1], cnn(frames[:1, :20], None)[0])
    torch.testing.assert_close(vectors[1:], cnn(F.pad(frames[1:, :13], (0, 0, 0, 7)), None)[0])


def test_seed_000s_size_has_944_million_parameters():
    with torch.device("meta"):
        fixed, pooled = LogMelCNN(128, fixed_frames=2401), LogMelCNN(128)
    assert fixed.linear.in_features == 1_228_800
    seed_prints = 18_816  # of the two convolutions
    assert num_parameters(fixed) == seed_prints + 1_228_800 * 768 + 768 == 943_737_984
    assert num_parameters(pooled) == seed_prints + 2_048 * 768 + 768


def test_joins_are_sum_concatenation_and_learnt_weighted_sum():
    waveform, lengths = padded([0.1 * torch.randn(length) for length in (8000, 5000)])
    encoders = {join: make("hubert_logmel", join=join).eval() for join in ("sum", "concat", "weighted")}
    state = encoders["sum"].state_dict()
    for encoder in encoders.values():
        encoder.load_state_dict(state, strict=False)
    hubert, num_frames = encoders["sum"].hubert(waveform, lengths)
    both = encoders["concat"](waveform, lengths)[0]
    torch.testing.assert_close(both[..., :128], hubert)
    picture = both[:, :1, 128:]
    torch.testing.assert_close(both[..., 128:], picture.expand_as(hubert))
    torch.testing.assert_close(encoders["sum"](waveform, lengths)[0], hubert + picture)
    encoders["weighted"].mix.weights.data = torch.tensor([math.log(3.0), 0.0])
    torch.testing.assert_close(encoders["weighted"](waveform, lengths)[0], 0.75 * hubert + 0.25 * picture)
    assert encoders["concat"].output_dim == 256
    assert num_frames[1] < num_frames[0]


def test_the_picture_is_the_log_mel_less_its_mean():
    encoder = make("hubert_logmel")
    seen = []
    encoder.cnn.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    waveform, lengths = padded([0.1 * torch.randn(length) for length in (8000, 5000)])
    encoder(waveform, lengths)
    (picture, num_frames), = seen
    mel = torchaudio.transforms.MelSpectrogram(16000, 1024, 400, 160, f_min=50.0, n_mels=128)(waveform[1, :5000])
    expected = mel.clamp_min(1e-9).log().T
    assert num_frames[1] == len(expected)
    torch.testing.assert_close(picture[1, : len(expected)], expected - expected.mean(0), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("name", "wrong"), [
    ("hubert", {"size": "large"}), ("hubert", {"layer": "first"}), ("hubert", {"size": "small", "download": True}),
    ("hubert", {"weights": "x", "download": True}), ("hubert_logmel", {"join": "product"}),
    ("hubert_logmel", {"size": "small", "fixed_frames": 3}), ("hubert", {"size": "small", "layer_drop": 1.0}),
    ("logmel_cnn", {"fixed_frames": 2}),
])
def test_unfit_settings_stop(name, wrong):
    with pytest.raises(SettingError, match=name):
        build("encoder", part(name, **wrong), 40)
