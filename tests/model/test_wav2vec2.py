"""Our wav2vec 2.0 as an encoder: padding, downsampling, weights, and the quantiser and contrast that it learns from."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from src.apps.pretrain import contrastive
from src.apps.pretrain.contrastive import ContrastivePretrainer, contrast, span_mask
from src.apps.pretrain.quantiser import GumbelVectorQuantiser, diversity_loss, perplexity, usage
from src.base.errors import SettingError
from src.model.encoders.wav2vec2 import SIZES, FeatureConv, save_encoder
from src.model.masking import zero_padding
from src.settings.config import part
from src.settings.parts import build, catalogue

TINY = {"size": "small", "channels": 12, "d_model": 16, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 24}
NAMES = ("wav2vec2", "wav2vec2_decoder")
both = pytest.mark.parametrize("name", NAMES)


def make_encoder(name, seed=0, **settings):
    """Return a tiny encoder whose every parameter is away from its start."""
    torch.manual_seed(seed)
    encoder = build("encoder", part(name, **{**TINY, "dropout": 0.0, **settings}), 0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return encoder


def make_pretrainer(name, **settings):
    usual = {"mask_share": 0.2, "mask_span": 4, "num_groups": 2, "num_entries": 5, "code_dim": 8,
             "num_negatives": "all", "similarity_temperature": 0.1, "diversity": 100.0, "dropout": 0.0}
    return ContrastivePretrainer(make_encoder(name), **{**usual, **settings})


def padded(items):
    """Return waveforms (B, N) padded with garbage, NaN in the last padded sample of each, and their lengths."""
    lengths = torch.tensor([len(item) for item in items])
    waveform = 1e3 * torch.randn(len(items), int(lengths.max()))
    for row, item in zip(waveform, items):
        row[-1] = math.nan
        row[: len(item)] = item
    return waveform, lengths


@both
@pytest.mark.parametrize("standardise", [False, True])
def test_a_padded_batch_gives_each_utterance_alone(name, standardise):
    encoder = make_encoder(name, standardise=standardise).eval()
    items = [torch.randn(length) for length in (9000, 5123, 1, 399, 400, 719, 720)]
    encoded, lengths = encoder(*padded(items))
    with torch.inference_mode():
        fused, _ = encoder(*padded(items))  # attention takes another kernel without gradients, and one in bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            rough, _ = encoder(*padded(items))
    for index, item in enumerate(items):
        alone, none = encoder(item[None], None)
        assert none is None
        assert lengths[index] == alone.shape[1] >= 1
        torch.testing.assert_close(encoded[index, : alone.shape[1]], alone[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(fused[index, : alone.shape[1]], alone[0], atol=1e-4, rtol=1e-4)
        assert (rough[index, : alone.shape[1]] - alone[0]).norm() < 0.05 * alone[0].norm()


@both
def test_gradients_reach_everything_and_stay_within_the_utterance(name):
    encoder = make_encoder(name).train()
    waveform, lengths = padded([torch.randn(length) for length in (3000, 2000, 500)])
    waveform.requires_grad_()
    encoded, encoded_lengths = encoder(waveform, lengths)
    assert encoded.shape == (3, int(encoded_lengths[0]), encoder.output_dim)
    zero_padding(encoded, encoded_lengths)[1].square().sum().backward()
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key
        assert parameter.grad.isfinite().all(), key
    assert (waveform.grad[1, :2000] != 0).any()
    assert (waveform.grad[1, 2000:] == 0).all()
    assert (waveform.grad[[0, 2]] == 0).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(waveform.detach(), lengths)[0].isfinite().all()


@both
def test_frozen_features_do_not_learn_and_all_behind_them_does(name):
    encoder = make_encoder(name, freeze_features=True).train()
    encoder(torch.randn(2, 3000), None)[0].square().sum().backward()
    for key, parameter in encoder.named_parameters():
        assert (parameter.grad is None) == key.startswith(("feature_encoder.", "feature_norm.")), key


def test_a_frame_every_320_samples_that_sees_400():
    encoder = make_encoder("wav2vec2")
    for num_samples, num_frames in ((400, 1), (719, 1), (720, 2), (16000, 49)):
        features, lengths = encoder.features(torch.randn(1, num_samples), torch.tensor([num_samples]))
        assert features.shape[1] == int(lengths) == num_frames
    waveform = torch.randn(1, 1600, requires_grad=True)
    frames = waveform[..., None]
    for conv in encoder.feature_encoder.convs:
        frames = conv(frames)
    frames[0, 2].sum().backward()
    seen = waveform.grad[0].nonzero().flatten()
    assert (int(seen.min()), int(seen.max())) == (2 * 320, 2 * 320 + 399)


def test_standardised_features_vary_alike_in_every_channel_of_an_utterance():
    encoder = make_encoder("wav2vec2", standardise=True).eval()
    items = [torch.randn(length) for length in (9000, 5123)]
    with torch.inference_mode():
        features, lengths = encoder.features(*padded(items))
        plain = encoder.feature_norm(encoder.feature_encoder(items[1][None], None)[0])[0]
    for item, length in zip(features, lengths.tolist()):
        torch.testing.assert_close(item[:length].mean(0), torch.zeros(item.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(item[:length].var(0, correction=0), torch.ones(item.shape[1]), atol=0.01, rtol=0)
    wanted = (plain - plain.mean(0)) / plain.std(0, correction=0)
    torch.testing.assert_close(features[1, : len(plain)], wanted, atol=0.01, rtol=0.01)


def test_loudness_and_offset_do_not_matter():
    encoder = make_encoder("wav2vec2").eval()
    waveform, lengths = torch.randn(2, 1200), torch.tensor([1200, 700])
    expected, _ = encoder(waveform, lengths)
    torch.testing.assert_close(encoder(0.01 * waveform + 0.3, lengths)[0][0], expected[0], atol=1e-3, rtol=1e-3)


def test_the_convolution_equals_torch():
    conv = FeatureConv(3, 8, 3, 2)
    frames = torch.randn(2, 11, 3)
    plain = F.conv1d(frames.transpose(1, 2), conv.weight, conv.bias, 2).transpose(1, 2)
    torch.testing.assert_close(conv(frames), F.gelu(F.layer_norm(plain, (8,), conv.norm.weight, conv.norm.bias)))


@pytest.mark.parametrize("rate", [0.7, 0.5, 1.0, 0.33])
def test_downsampling_takes_the_nearest_frames_of_masks_and_features_alike(rate):
    encoder = make_encoder("wav2vec2_decoder", rate=rate)
    for num_frames in (1, 2, 9, 90, 133):
        features = torch.arange(num_frames, dtype=torch.float)[None, :, None].expand(2, -1, 3)
        mask = torch.rand(2, num_frames) < 0.5
        taken = encoder.downsample(features)[0, :, 0].long()
        left = max(1, round(1000 * rate) * num_frames // 1000)
        assert taken.tolist() == [i * 1000 // round(1000 * rate) for i in range(left)]
        assert int(encoder.downsampled(torch.tensor(num_frames))) == left
        assert torch.equal(encoder.downsample(mask), mask[:, taken])
    if rate == 0.7:
        nearest = F.interpolate(torch.arange(50.0)[None, None], scale_factor=0.7, mode="nearest")[0, 0]
        assert torch.equal(encoder.downsample(torch.arange(50.0)[None])[0], nearest)
    plain = make_encoder("wav2vec2")
    assert torch.equal(plain.downsample(mask), mask)


def test_the_decoder_looks_back_at_every_frame_of_the_encoder():
    encoder = make_encoder("wav2vec2_decoder", num_layers=1)
    with torch.no_grad():  # without the decoder's own self-attention and convolution over time, only the memory is left
        encoder.decoder_layers[0].self_attn.out_proj.weight.zero_()
        encoder.decoder_layers[0].feed_forward.contract.weight.zero_()
    memory = torch.randn(1, 20, 16, requires_grad=True)
    frames = encoder.decoder_layers[0](encoder.downsample(memory.detach()), None, memory, torch.tensor([15]))
    frames[0, 0].sum().backward()
    assert (memory.grad[0, :15].abs().sum(1) > 0).all()
    assert (memory.grad[0, 15:] == 0).all()


@both
def test_weights_come_back_and_only_into_their_very_shape(name, tmp_path):
    encoder, path = make_encoder(name), tmp_path / "encoder.pt"
    save_encoder(path, encoder)
    waveform = torch.randn(2, 2000)
    again = make_encoder(name, seed=1, weights="")
    assert not torch.equal(again.eval()(waveform, None)[0], encoder.eval()(waveform, None)[0])
    loaded = build("encoder", part(name, **TINY, weights=str(path)), 0)
    assert torch.equal(loaded.eval()(waveform, None)[0], encoder(waveform, None)[0])
    with pytest.raises(SettingError, match=r"d_model 16 \(here 32\).*set the encoder to the same"):
        build("encoder", part(name, **{**TINY, "d_model": 32}, weights=str(path)), 0)
    other = NAMES[1 - NAMES.index(name)]
    with pytest.raises(SettingError, match="rate"):
        build("encoder", part(other, **TINY, weights=str(path)), 0)
    torch.save({"format": 1, "shape": encoder.shape, "weights": {"norm.weight": torch.zeros(16)}}, path)
    with pytest.raises(SettingError, match=r"Missing key.*pretrain again"):
        build("encoder", part(name, **TINY, weights=str(path)), 0)
    for content, said in ((b"torn", "torn"), (None, "no such file")):
        path.write_bytes(content) if content else path.unlink()
        with pytest.raises(SettingError, match=said):
            build("encoder", part(name, **TINY, weights=str(path)), 0)


@pytest.mark.parametrize("wrong", [{"size": "huge"}, {"d_model": 0}, {"channels": 1.5}, {"num_heads": 3},
                                   {"rate": 0.0}, {"rate": 0.0004}])
def test_unfit_settings_stop(wrong):
    with pytest.raises(SettingError, match="wav2vec2_decoder"):
        build("encoder", part("wav2vec2_decoder", **{**TINY, **wrong}), 0)


@both
def test_the_defaults_are_the_sizes_that_the_lab_gives(name):
    assert catalogue("encoder")[name].takes == "waveform"
    with torch.device("meta"):
        encoder = catalogue("encoder")[name].load()(0)
    assert encoder.shape.items() >= SIZES["base"].items()
    assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in encoder.feature_encoder.convs] == \
        [(512, k, s) for k, s in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))]
    feed_forward = encoder.layers[5].feed_forward
    assert feed_forward.expand.weight.shape == (2048, 512, 5)
    assert feed_forward.contract.weight.shape == (512, 2048, 1)


def test_masked_spans_have_the_papers_share_and_are_drawn_for_each_utterance():
    rng = np.random.default_rng(0)
    mask = span_mask(np.full(400, 500), 500, 0.065, 10, rng)
    assert float(mask.float().mean()) == pytest.approx(0.49, abs=0.01)  # the paper's figure
    rates = mask[:, 20:].float().mean(0)
    assert float((rates - 0.49).abs().max()) < 0.12  # as likely everywhere but at the beginning
    pairs = (mask[0::2] & mask[1::2]).float().mean() / mask.float().mean() ** 2
    assert float(pairs) == pytest.approx(1.0, abs=0.05), "two utterances' masks are independent"
    runs = [len(run) for row in mask[:50].int() for run in "".join(map(str, row.tolist())).strip("1").split("0") if run]
    assert min(runs) == 10, "a span may touch another, but none is shorter"
    lengths = np.array([30, 1, 12])
    short = span_mask(lengths, 40, 0.065, 10, rng)
    assert [int(row[length:].sum()) for row, length in zip(short, lengths)] == [0, 0, 0]
    assert (short.sum(1) > 0).all(), "at least one span each"
    few = span_mask(np.full(4000, 100), 100, 0.015, 1, rng).sum(1)
    assert set(few.tolist()) == {1, 2}, "half a start is one for every other utterance"
    assert float(few.float().mean()) == pytest.approx(1.5, abs=0.05)
    again = [span_mask(lengths, 40, 0.5, 3, np.random.default_rng(7)) for _ in range(2)]
    assert torch.equal(*again)


def test_the_quantiser_chooses_one_entry_a_group_with_a_straight_through_gradient():
    torch.manual_seed(0)
    quantiser = GumbelVectorQuantiser(6, num_groups=2, num_entries=4, code_dim=10)
    with torch.no_grad():
        quantiser.scores.weight.mul_(0.3)
    features = torch.randn(50, 6, requires_grad=True)
    codes, indices, probs = quantiser(features, 2.0)
    expected = torch.cat([quantiser.entries[g][indices[:, g]] for g in range(2)], 1)
    torch.testing.assert_close(codes, expected)
    assert len(indices.unique()) == 4
    scores = F.linear(features, quantiser.scores.weight, quantiser.scores.bias).view(50, 2, 4)
    torch.testing.assert_close(probs, scores.softmax(2).mean(0))
    # The gradient of the scores is that of the noisy softmax at this temperature; with the same noise it is this:
    torch.manual_seed(1)
    codes = quantiser(features, 0.7).codes
    upstream = torch.randn_like(codes)
    found, = torch.autograd.grad((codes * upstream).sum(), features)
    torch.manual_seed(1)
    noise = -torch.empty(50, 2, 4).exponential_().log()
    soft = ((scores + noise) / 0.7).softmax(2)
    expected, = torch.autograd.grad((torch.einsum("mgv,gvd->mgd", soft, quantiser.entries).flatten(1) * upstream).sum(),
                                    features)
    torch.testing.assert_close(found, expected)
    quantiser.eval()
    assert torch.equal(quantiser(features, 2.0).indices, scores.argmax(2)), "without noise the likeliest"
    with pytest.raises(ValueError, match="num_groups 3"):
        GumbelVectorQuantiser(6, num_groups=3, num_entries=4, code_dim=10)


def test_perplexity_and_diversity_by_hand():
    uniform, one = torch.full((2, 320), 1 / 320), F.one_hot(torch.tensor([3, 7]), 320).float()
    assert float(perplexity(uniform)) == pytest.approx(320, rel=1e-4)
    assert float(perplexity(one)) == pytest.approx(1.0)
    assert float(perplexity(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))) == pytest.approx((2 + 1) / 2)
    assert float(diversity_loss(uniform)) == pytest.approx(-math.log(320) / 320, rel=1e-4)
    assert float(diversity_loss(one)) == 0.0
    half = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    by_hand = (2 * 0.5 * math.log(0.5) + 0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / 4
    assert float(diversity_loss(half)) == pytest.approx(by_hand)
    torch.testing.assert_close(usage(torch.tensor([[0, 1], [0, 2], [2, 2], [0, 2]]), 3),
                               torch.tensor([[0.75, 0, 0.25], [0, 0.25, 0.75]], dtype=torch.double))


def explicit_contrast(context, codes, indices, masked, temperature, distractors):
    """Return (loss, accuracy, positive, negative) frame by frame; distractors(b, t) lists the frames drawn."""
    losses, right, positives, negatives = [], [], [], []
    for b in range(len(context)):
        for t in masked[b].nonzero().flatten().tolist():
            own = float(F.cosine_similarity(context[b, t], codes[b, t], dim=0))
            others = [float(F.cosine_similarity(context[b, t], codes[b, s], dim=0)) for s in distractors(b, t)
                      if indices[b, s].tolist() != indices[b, t].tolist()]
            total = sum(math.exp(value / temperature) for value in [own, *others])
            losses.append(-math.log(math.exp(own / temperature) / total))
            right.append(bool(others) and own > max(others))
            positives.append(own)
            negatives += others
    return [float(np.mean(values)) for values in (losses, right, positives, negatives)]


def test_the_contrast_equals_an_explicit_loop(monkeypatch):
    torch.manual_seed(0)
    context, codes = torch.randn(3, 9, 4), torch.randn(3, 9, 4)
    context[0] += 2 * codes[0]
    indices = torch.randint(3, (3, 9, 2))
    masked = torch.rand(3, 9) < 0.6
    masked[2] = False
    masked[2, 4] = True  # a frame with nobody to be told from
    every = explicit_contrast(context, codes, indices, masked, 0.1,
                              lambda b, t: [s for s in masked[b].nonzero().flatten().tolist() if s != t])
    found = contrast(context, codes, indices, masked, "all", 0.1)
    assert [float(value) for value in found] == pytest.approx(every, rel=1e-4)
    assert 0 < float(found.accuracy) < 1

    drawn, multinomial = [], torch.multinomial

    def remember(weights, count, replacement):
        drawn.append(multinomial(weights, count, replacement=replacement))
        return drawn[-1]

    monkeypatch.setattr(torch, "multinomial", remember)
    found = contrast(context, codes, indices, masked, 7, 0.1)
    rows = {place: row.tolist() for place, row in zip(map(tuple, masked.nonzero().tolist()), drawn[0])}
    assert all(s != t and masked[b, s] for (b, t), row in rows.items() if b < 2 for s in row)
    sampled = explicit_contrast(context, codes, indices, masked, 0.1, lambda b, t: rows[b, t] if b < 2 else [])
    assert [float(value) for value in found] == pytest.approx(sampled, rel=1e-4)


@both
@pytest.mark.parametrize("num_negatives", ["all", 5])
def test_pretraining_reaches_every_parameter_and_padding_never_counts(name, num_negatives):
    model = make_pretrainer(name, num_negatives=num_negatives).eval()
    items = [torch.randn(9000), torch.randn(4000)]
    waveform, lengths = padded(items)
    short, _ = padded(items)
    torch.manual_seed(0)
    values = model(waveform, lengths, np.random.default_rng(3), 1.0)
    torch.manual_seed(0)
    other = model(short, lengths, np.random.default_rng(3), 1.0)  # other garbage behind the second utterance
    values = {key: value.detach() for key, value in values.items()}
    for key, value in values.items():
        assert value.isfinite(), key
        torch.testing.assert_close(other[key], value)
    assert float(values["loss"]) == pytest.approx(float(values["lm"] + 100 * values["ld"]))
    model.train()(waveform, lengths, np.random.default_rng(3), 1.0)["loss"].backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@both
def test_every_masked_frame_of_the_context_network_counts_and_no_other(name, monkeypatch):
    seen = []
    monkeypatch.setattr(contrastive, "contrast", lambda *given: seen.append(given) or contrast(*given))
    model = make_pretrainer(name, mask_share=1.0).eval()
    items = [torch.randn(9000), torch.randn(3200), torch.randn(400)]
    model(*padded(items), np.random.default_rng(0), 1.0)
    context, codes, indices, masked, *_ = seen[0]
    _, lengths = model.encoder(*padded(items))
    assert context.shape[:2] == codes.shape[:2] == masked.shape
    assert masked.sum(1).tolist() == lengths.tolist(), "all are masked, and none behind an utterance's end"
    features, _ = model.encoder.features(items[0][None], None)
    expected = model.quantiser(model.encoder.downsample(features)[0], 1.0)
    assert torch.equal(indices[0], expected.indices)
    torch.testing.assert_close(codes[0], model.code_projection(expected.codes))
    for item, row, length in zip(items, context, lengths):
        num_frames = model.encoder.features(item[None], None)[0].shape[1]
        alone, _ = model.encoder.context(model.mask_embedding.expand(1, num_frames, -1), None)
        torch.testing.assert_close(row[:length], model.context_projection(alone)[0], atol=1e-4, rtol=1e-4)


@both
def test_the_loss_falls_and_the_right_code_is_found_on_a_tiny_set(name):
    """Waveforms that go round through four tones, so that what lies around a masked span tells what is in it."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    orders = ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 0, 1), (1, 0, 3, 2))
    tones = torch.tensor([[(300.0, 800.0, 1900.0, 4000.0)[i] for i in order * 3] for order in orders])
    waveform = torch.sin(torch.cumsum(tones.repeat_interleave(1280, 1) * 2 * math.pi / 16000, 1))
    waveform = waveform + 0.01 * torch.randn_like(waveform)
    model = make_pretrainer(name, diversity=10.0).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    log = []
    for _ in range(120):
        values = model(waveform, None, rng, 1.0)
        optimiser.zero_grad()
        values["loss"].backward()
        optimiser.step()
        log.append({key: float(value.detach()) for key, value in values.items()})
    first, last = ({key: np.mean([row[key] for row in part]) for key in log[0]} for part in (log[:10], log[-10:]))
    assert last["lm"] < first["lm"] - 0.8
    assert last["accuracy"] > first["accuracy"] + 0.2
    assert last["positive_similarity"] - last["negative_similarity"] > 0.2
    assert last["code_perplexity"] > 4


def test_an_entry_that_nothing_chooses_leaves_the_diversity_a_gradient():
    probs = torch.tensor([[0.0, 0.25, 0.75]], requires_grad=True)
    diversity_loss(probs).backward()
    assert probs.grad.isfinite().all()
    torch.testing.assert_close(probs.grad[0, 1:], (probs[0, 1:].detach().log() + 1) / 3)
