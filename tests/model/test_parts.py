"""Contracts over every registered encoder, pooling and head, and the truth of each against an independent formula."""

import copy
import math

import pytest
import torch
import torchaudio
from torch import nn
from torch.nn import functional as F

from src.base.errors import SettingError
from src.model import norms
from src.model.encoders import transformer
from src.model.encoders.campplus import segment_mean
from src.model.encoders.transformer import TransformerLayer
from src.model.kernels import attention
from src.model.kernels.attention import attend
from src.model.kernels.convolution import banded_product
from src.model.kernels.moments import Moments
from src.model.layers import Conv1d, Dropout, Linear
from src.model.masking import valid_mask, zero_padding
from src.model.norms import MaskedBatchNorm1d, MaskedBatchNorm2d
from src.settings.config import part
from src.settings.parts import build, catalogue, complete

INPUT_DIM = 12
NUM_SPEAKERS = 5
SMALL = {  # settings that keep the big encoders quick; a part that is not named here is tested at its defaults
    "transformer": {"d_model": 16, "num_layers": 2, "feed_forward_dim": 24},
    "conformer": {"d_model": 16, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 24, "kernel_size": 7},
    "branchformer": {"d_model": 16, "num_layers": 2, "num_heads": 2, "cgmlp_dim": 24, "kernel_size": 7},
    "ecapa_tdnn": {"channels": 16, "scale": 4, "aggregate_dim": 24, "se_dim": 8, "stride": 2},
    "resnet34": {"base_channels": 8},
    "logmel_cnn": {"dim": 16},
    "campplus": {"growth_rate": 4, "init_channels": 8, "blocks": (2, 2, 2)},
}
VARIANTS = [
    ("transformer", {"norm_first": True, "positional": "sinusoidal"}),
    ("conformer", {"norm": "group"}),
    ("logmel_cnn", {"fixed_frames": 24}),
]
ENCODERS = [(name, {}) for name, item in catalogue("encoder").items() if item.takes == "frames"] + VARIANTS
encoders = pytest.mark.parametrize(("name", "kwargs"), ENCODERS, ids=lambda value: str(value))
poolings = pytest.mark.parametrize("name", catalogue("pooling"))
heads = pytest.mark.parametrize("name", catalogue("head"))


def make_encoder(name: str, kwargs: dict, seed: int = 0) -> nn.Module:
    """Return a small encoder without dropout whose every parameter and running statistic is away from its start."""
    torch.manual_seed(seed)
    settings = {**SMALL.get(name, {}), **kwargs}
    if "dropout" in catalogue("encoder")[name].settings:
        settings["dropout"] = 0.0
    return shake(build("encoder", part(name, **settings), INPUT_DIM))


def shake(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += (parameter.std() if parameter.dim() > 1 else 0.1) * torch.randn_like(parameter)
        for key, buffer in module.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_()
            elif key.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return module


def padded(items: list[torch.Tensor], garbage: float = 1e3, extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return items (T_i, F) padded with garbage, NaN in the last padded frame of each, and their lengths."""
    lengths = torch.tensor([len(item) for item in items])
    frames = garbage * torch.randn(len(items), int(lengths.max()) + extra, items[0].shape[1])
    for row, item in zip(frames, items):
        if len(item) < len(row):
            row[-1] = math.nan
        row[: len(item)] = item
    return frames, lengths


@encoders
def test_encoder_shapes_and_gradients(name, kwargs):
    encoder = make_encoder(name, kwargs).train()
    items = [torch.randn(length, INPUT_DIM) for length in (21, 9, 1)]
    frames, lengths = padded(items)
    encoded, encoded_lengths = encoder(frames, lengths)
    assert encoded.shape == (3, int(encoded_lengths[0]), encoder.output_dim)
    assert encoded_lengths.dtype == torch.int64
    assert all(1 <= after <= before for after, before in zip(encoded_lengths, lengths))
    embedding = build("pooling", part("mean"), encoder.output_dim)(encoded, encoded_lengths)
    (embedding * torch.randn_like(embedding)).sum().backward()
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@encoders
def test_encoder_gives_a_padded_batch_each_utterance_alone(name, kwargs):
    encoder = make_encoder(name, kwargs).eval()
    items = [torch.randn(length, INPUT_DIM) for length in (131, 77, 1, 2)]
    frames, lengths = padded(items)
    encoded, encoded_lengths = encoder(frames, lengths)
    with torch.inference_mode():
        fused, _ = encoder(frames, lengths)  # attention takes another kernel without gradients
    for index, item in enumerate(items):
        alone, none = encoder(item[None], None)
        assert none is None
        assert encoded_lengths[index] == alone.shape[1]
        torch.testing.assert_close(encoded[index, : alone.shape[1]], alone[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(fused[index, : alone.shape[1]], alone[0], atol=1e-4, rtol=1e-4)


@encoders
def test_encoder_never_looks_across_the_batch(name, kwargs):
    encoder = make_encoder(name, kwargs).eval()
    frames = torch.randn(3, 20, INPUT_DIM, requires_grad=True)
    encoder(frames, None)[0][1].square().sum().backward()
    assert frames.grad[1].abs().sum() > 0
    assert frames.grad[0].abs().sum() == 0
    assert frames.grad[2].abs().sum() == 0


@encoders
@pytest.mark.parametrize("training", [False, True])
def test_encoder_none_equals_full_lengths_and_padding_never_counts(name, kwargs, training):
    """The unpadded batch, which runs the plain norms, is the reference of the masked ones, statistics included."""
    plain = make_encoder(name, kwargs).train(training)
    masked, longer = copy.deepcopy(plain), copy.deepcopy(plain)
    frames = torch.randn(3, 21, INPUT_DIM)
    expected, _ = plain(frames, None)
    full, full_lengths = masked(frames, torch.full((3,), 21))
    more, more_lengths = longer(*padded(list(frames), extra=13))
    assert full_lengths.tolist() == more_lengths.tolist() == [expected.shape[1]] * 3
    torch.testing.assert_close(full, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(more[:, : expected.shape[1]], expected, atol=1e-4, rtol=1e-4)
    for key, buffer in plain.named_buffers():
        torch.testing.assert_close(masked.get_buffer(key), buffer, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(longer.get_buffer(key), buffer, atol=1e-4, rtol=1e-4)


@encoders
def test_encoder_state_round_trip_and_bfloat16(name, kwargs):
    first, second = make_encoder(name, kwargs, seed=0).eval(), make_encoder(name, kwargs, seed=1).eval()
    frames, lengths = padded([torch.randn(length, INPUT_DIM) for length in (30, 12)])
    expected, encoded_lengths = first(frames, lengths)
    assert not torch.equal(second(frames, lengths)[0], expected)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(frames, lengths)[0], expected)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        rough, _ = second(frames, lengths)
    difference = zero_padding(rough - expected, encoded_lengths)
    assert difference.norm() < 0.05 * zero_padding(expected, encoded_lengths).norm()
    pooling = build("pooling", part("attentive_statistics"), first.output_dim)
    head = build("head", part("aam_softmax"), pooling.output_dim, NUM_SPEAKERS)
    with torch.autocast("cpu", torch.bfloat16):
        encoded, _ = first.train()(frames, lengths)
        logits = head(pooling(encoded, encoded_lengths), torch.tensor([0, 1]))
    assert logits.dtype == torch.float32
    F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert all(parameter.grad.isfinite().all() for parameter in first.parameters())


@pytest.mark.parametrize("slot", ["encoder", "pooling", "head"])
def test_defaults_build(slot):
    for name, item in catalogue(slot).items():
        if item.takes in (None, "frames"):
            composed = (40, NUM_SPEAKERS) if slot == "head" else (40,)
            assert sum(parameter.numel() for parameter in build(slot, part(name), *composed).parameters()) >= 0


@pytest.mark.parametrize(("name", "count"), [("lab_transformer", 154_800), ("lab_conformer", 225_849)])
def test_lab_encoders_have_the_parameters_that_the_report_gives(name, count):
    encoder = build("encoder", part(name), 40)
    assert sum(parameter.numel() for parameter in encoder.layers.parameters()) == count
    assert str(f"{count:,}") in type(encoder).__doc__


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_conformer_equals_torchaudio(norm, training):
    torch.manual_seed(0)
    encoder = build("encoder", part("conformer", d_model=32, num_layers=2, feed_forward_dim=48, dropout=0.0, norm=norm),
                    INPUT_DIM)
    shake(encoder).train(training)
    theirs = torchaudio.models.Conformer(32, 4, 48, 2, 31, use_group_norm=norm == "group").train(training)
    theirs.load_state_dict({key: value.clone() for key, value in encoder.state_dict().items() if "prenet" not in key})
    frames = torch.randn(4, 50, INPUT_DIM)
    ours, _ = encoder(frames, None)
    expected, _ = theirs(encoder.prenet(frames), torch.full((4,), 50))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    seed_gradient = torch.randn_like(ours)
    ours.backward(seed_gradient)
    gradients = {key: parameter.grad for key, parameter in encoder.named_parameters()}
    expected.backward(seed_gradient)
    for key, parameter in theirs.named_parameters():
        torch.testing.assert_close(gradients[key], parameter.grad, atol=1e-3, rtol=1e-3)
    for key, buffer in theirs.named_buffers():
        torch.testing.assert_close(encoder.get_buffer(key), buffer)


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_layer_equals_torch(norm_first):
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, norm_first=norm_first, batch_first=True)
    ours = TransformerLayer(16, 2, 24, 0.0, norm_first)
    ours.load_state_dict(shake(theirs).state_dict())
    frames, lengths = torch.randn(3, 11, 16), torch.tensor([11, 7, 1])
    expected = theirs(frames, src_key_padding_mask=torch.arange(11) >= lengths[:, None])
    for index, length in enumerate(lengths):
        row = ours(frames, lengths)[index, :length]
        torch.testing.assert_close(row, expected[index, :length], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("matrix_units", [False, True])
@pytest.mark.parametrize("settings", [{}, {"num_layers": 3}, {"num_heads": 1}], ids=str)
def test_the_first_layer_folded_for_inference_gives_what_it_gives_in_training(settings, matrix_units, monkeypatch):
    monkeypatch.setattr(attention, "has_matrix_units", lambda: matrix_units)  # in bfloat16 attention has a way for each
    torch.manual_seed(0)
    encoder = shake(build("encoder", part("transformer", **settings), 40)).eval()
    frames, lengths = 3.0 * torch.randn(4, 50, 40) - 8.0, torch.tensor([50, 33, 50, 1])  # as log-mels lie
    frames[1, 33:] = torch.nan
    expected = encoder(frames, lengths)[0].detach()
    calls = []
    folded = transformer.project_and_attend
    monkeypatch.setattr(transformer, "project_and_attend", lambda *args: calls.append(args) or folded(*args))
    with torch.inference_mode():
        for values, sizes in ((frames, lengths), (frames[:1], None)):
            found = encoder(values, sizes)[0]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rounded = encoder(values, sizes)[0]
            for row, length in enumerate(lengths[: len(values)]):
                valid = expected[row, :length]
                torch.testing.assert_close(found[row, :length], valid, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(rounded[row, :length].float(), valid, rtol=0.05, atol=0.05)
        assert len(calls) == 4
        for other in ({"positional": "sinusoidal"}, {"norm_first": True}, {"d_model": 72}):
            build("encoder", part("transformer", **other), 40).eval()(frames[:1], None)
        assert len(calls) == 4, "where it is not linear in the features, or would cost more"


def test_sinusoidal_positions_tell_the_order_of_frames():
    frames = torch.randn(1, 10, INPUT_DIM)
    for positional, ordered in (("none", False), ("sinusoidal", True)):
        encoder = make_encoder("transformer", {"positional": positional}).eval()
        turned = encoder(frames.flip(1), None)[0].flip(1)
        assert torch.allclose(turned, encoder(frames, None)[0], atol=1e-4) != ordered


def test_convolution_and_linear_equal_torch():
    torch.manual_seed(0)
    frames = torch.randn(2, 23, 8)
    for settings in ({"kernel_size": 5, "dilation": 2}, {"kernel_size": 7, "groups": 8}, {"kernel_size": 1},
                     {"kernel_size": 1, "groups": 8},
                     {"kernel_size": 5, "stride": 2, "bias": False}):
        conv = Conv1d(8, 8, **settings)
        torch.testing.assert_close(conv(frames), nn.Conv1d.forward(conv, frames.transpose(1, 2)).transpose(1, 2))
    layer = Linear(8, 6)
    torch.testing.assert_close(layer(frames), nn.Linear.forward(layer, frames))


@pytest.mark.parametrize("kernel", [1, 5, 31])
def test_a_product_with_band_matrices_is_the_depthwise_convolution(kernel):
    frames, weight = torch.randn(3, 20, 6).double().requires_grad_(), torch.randn(6, kernel).double().requires_grad_()
    found = banded_product(frames, weight)
    expected = F.conv1d(frames.transpose(1, 2), weight[:, None], padding=kernel // 2, groups=6).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    slope = torch.randn_like(found)
    gradients = [torch.autograd.grad((product * slope).sum(), (frames, weight)) for product in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("norm_type", [MaskedBatchNorm1d, MaskedBatchNorm2d])
def test_masked_batch_norm_without_a_gather_is_the_one_with(norm_type, monkeypatch):
    lengths = torch.tensor([3, 9, 1, 7])
    shape = (4, 9, 5) if norm_type is MaskedBatchNorm1d else (4, 5, 9, 6)
    mask = valid_mask(lengths, 9)[:, :, None] if len(shape) == 3 else valid_mask(lengths, 9)[:, None, :, None]
    inputs, outcomes = 2 + 3 * torch.randn(shape), []
    slope = torch.randn(shape).masked_fill(~mask, 0)
    for gathers in (True, False):
        monkeypatch.setattr(norms, "gathers_frames", lambda _, gathers=gathers: gathers)
        torch.manual_seed(1)
        norm = shake(norm_type(5)).train()
        values = inputs.clone().requires_grad_()
        normed = norm(values, lengths).masked_fill(~mask, 0)
        (normed * slope).sum().backward()
        outcomes.append((normed, values.grad.masked_fill(~mask, 0), norm.weight.grad, norm.bias.grad,
                         norm.running_mean, norm.running_var, norm.num_batches_tracked))
    for one, other in zip(*outcomes):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_dropout_draws_its_probability_and_keeps_the_mean():
    torch.manual_seed(0)
    values = torch.ones(199, 1001, requires_grad=True)
    dropped = Dropout(0.3)(values)
    dropped.sum().backward()
    assert torch.equal(values.grad, dropped.detach())
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    shares = (dropped == 0).float().flatten()[:199_196].view(-1, 4).mean(0)  # of the four values that share one draw
    assert (shares - 0.3).abs().max() < 0.01
    torch.manual_seed(0)
    assert torch.equal(Dropout(0.3)(values), dropped)
    assert torch.equal(Dropout(0.3).eval()(values), values)
    assert (Dropout(1.0)(values) == 0).all()


def test_attention_dropout_is_off_without_training():
    query = torch.randn(2, 2, 9, 4)
    with torch.no_grad():
        fused = attend(query, query, query, torch.tensor([9, 4]))
    torch.testing.assert_close(attend(query, query, query, torch.tensor([9, 4])), fused)


def test_segment_mean_is_average_pooling_that_leaves_padding_out():
    items = [torch.randn(length, 3) for length in (25, 14, 1)]
    frames, lengths = padded(items)
    means = segment_mean(frames, lengths, 10)
    for row, item in zip(means, items):
        pooled = F.avg_pool1d(item.T, 10, 10, ceil_mode=True).T.repeat_interleave(10, 0)[: len(item)]
        torch.testing.assert_close(row[: len(item)], pooled)


def weighted(item: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    mean = (weights * item).sum(0)
    return torch.cat([mean, ((weights * item**2).sum(0) - mean**2).clamp_min(1e-5).sqrt()])


POOLED = {  # what each pooling makes of one utterance (T, D), written another way
    "mean": lambda pooling, item: item.mean(0),
    "max": lambda pooling, item: item.max(0).values,
    "self_attention": lambda pooling, item: (item @ pooling.attention.weight[0]).softmax(0) @ item,
    "self_attention_max": lambda pooling, item: torch.cat(
        [(item @ pooling.self_attention.attention.weight[0]).softmax(0) @ item, item.max(0).values]),
    "statistics": lambda pooling, item: torch.cat([item.mean(0), item.var(0, correction=0).clamp_min(1e-5).sqrt()]),
    "attentive_statistics": lambda pooling, item: weighted(item, pooling.scores(torch.tanh(F.linear(
        torch.cat([item, POOLED["statistics"](None, item).expand(len(item), -1)], 1),
        torch.cat([pooling.hidden.weight, pooling.context.weight], 1), pooling.hidden.bias))).softmax(0)),
}


@poolings
def test_pooling_equals_its_formula_whatever_the_padding(name):
    torch.manual_seed(0)
    pooling = build("pooling", part(name), 6)
    items = [torch.randn(length, 6) for length in (17, 9, 1)]
    for garbage in (0.0, 1e3, -1e3):
        frames, lengths = padded(items, garbage)
        frames = frames.nan_to_num(garbage)
        pooled = pooling(frames, lengths)
        assert pooled.shape == (3, pooling.output_dim)
        for row, item in zip(pooled, items):
            torch.testing.assert_close(row, POOLED[name](pooling, item), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(row, pooling(item[None], None)[0], atol=1e-5, rtol=1e-5)


@poolings
def test_pooling_gradients_are_finite_and_stay_within_the_utterance(name):
    pooling = build("pooling", part(name), 6)
    frames = torch.randn(3, 8, 6)
    frames[1] = 0.5  # frames that do not vary: the deviation's slope must stay finite
    frames.requires_grad_()
    lengths = torch.tensor([8, 5, 1])
    pooled = pooling(frames, lengths)
    (pooled * torch.randn_like(pooled)).sum().backward()
    assert frames.grad.isfinite().all()
    assert (frames.grad[1, 5:] == 0).all()
    assert (frames.grad[2, 1:] == 0).all()
    assert all(parameter.grad.isfinite().all() for parameter in pooling.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert pooling(frames.bfloat16(), lengths).isfinite().all()
    other = build("pooling", part(name), 6)
    other.load_state_dict(pooling.state_dict())
    assert torch.equal(other(frames, lengths), pooled)


def test_moments_of_full_items_and_their_gradient_are_those_of_padded_ones():
    frames = torch.randn(3, 9, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: torch.cat(Moments.apply(values), 1), frames)
    still = torch.randn(2, 7, 6)
    still[0, :, 2] *= 1e-3  # a deviation at its floor, which has no slope
    still[1, :, 4] = 1.5
    pooling, asked = build("pooling", part("statistics"), 6), torch.randn(2, 12)
    pooled, slopes = [], []
    for lengths in (None, torch.tensor([7, 7])):
        values = still.clone().requires_grad_()
        pooled.append(pooling(values, lengths))
        slopes.append(torch.autograd.grad(pooled[-1], values, asked)[0])
    torch.testing.assert_close(*pooled)
    torch.testing.assert_close(*slopes)
    with torch.no_grad():
        torch.testing.assert_close(pooling(still, None), pooled[0])


def test_attentive_statistics_without_context_sees_each_frame_alone():
    pooling = build("pooling", part("attentive_statistics", global_context=False), 6)
    item = torch.randn(9, 6)
    scores = pooling.scores(torch.tanh(pooling.hidden(item)))
    torch.testing.assert_close(pooling(item[None], None)[0], weighted(item, scores.softmax(0)))


@heads
def test_head_contract(name):
    torch.manual_seed(0)
    head = build("head", part(name), 6, NUM_SPEAKERS)
    embedding = torch.cat([torch.randn(4, 6), torch.zeros(1, 6), 1e4 * torch.ones(1, 6)]).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(embedding.bfloat16(), labels)
        assert head(embedding, None).shape == logits.shape == (6, NUM_SPEAKERS)
    assert logits.dtype == torch.float32
    F.cross_entropy(head(embedding, labels), labels).backward()
    assert embedding.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    head.set_progress(0.5)
    other = build("head", part(name), 6, NUM_SPEAKERS)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(embedding), head(embedding))


def true_logit(head: nn.Module, degrees: float) -> tuple[float, float]:
    """Return the true speaker's logit with and without labels, for an embedding at an angle to its weight."""
    with torch.no_grad():
        head.weight.copy_(torch.eye(2).repeat_interleave(head.num_subcenters, 0)[: len(head.weight)])
    angle = math.radians(degrees)
    embedding = 7.0 * torch.tensor([[math.cos(angle), math.sin(angle)]])  # the length must not matter
    label = torch.tensor([0])
    plain = head(embedding)
    with_margin = head(embedding, label)
    assert with_margin[0, 1] == plain[0, 1]
    return with_margin[0, 0].item(), plain[0, 0].item()


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, 150.0, 169.0, 179.0])
def test_margins_at_known_angles(degrees):
    angle = math.radians(degrees)
    with_margin, plain = true_logit(build("head", part("am_softmax", scale=20.0, margin=0.3), 2, 2), degrees)
    assert plain == pytest.approx(20 * math.cos(angle), abs=1e-4)
    assert with_margin == pytest.approx(20 * (math.cos(angle) - 0.3), abs=1e-4)
    with_margin, plain = true_logit(build("head", part("aam_softmax", scale=20.0, margin=0.2), 2, 2), degrees)
    turned = math.cos(angle + 0.2) if angle + 0.2 < math.pi else math.cos(angle) - 0.2 * math.sin(0.2)
    assert plain == pytest.approx(20 * math.cos(angle), abs=1e-4)
    assert with_margin == pytest.approx(20 * turned, abs=2e-3)  # the sine near 0 and pi is clamped


@pytest.mark.parametrize("name", ["am_softmax", "aam_softmax"])
def test_margin_has_a_slope_where_the_angle_is_zero_or_pi(name):
    head = build("head", part(name), 2, 2)
    true_logit(head, 0.0)  # puts the weights on the axes, so that the cosines are exactly one
    embedding = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    F.cross_entropy(head(embedding, torch.tensor([0, 0])), torch.tensor([0, 0])).backward()
    assert embedding.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["am_softmax", "aam_softmax"])
def test_margin_ramp(name):
    ramped = build("head", part(name, margin=0.2, ramp=0.4), 2, 2)
    constant = build("head", part(name, margin=0.1), 2, 2)
    assert true_logit(ramped, 50.0)[0] == pytest.approx(true_logit(ramped, 50.0)[1], abs=1e-5)
    ramped.set_progress(0.2)  # halfway up the ramp
    assert true_logit(ramped, 50.0)[0] == pytest.approx(true_logit(constant, 50.0)[0], abs=1e-5)
    for fraction in (0.4, 0.9, 1.0):
        ramped.set_progress(fraction)
        assert ramped.current_margin.item() == pytest.approx(0.2)
    constant.set_progress(0.0)
    assert constant.current_margin.item() == pytest.approx(0.1)
    assert "current_margin" not in ramped.state_dict()


def test_nearest_subcenter_counts():
    head = build("head", part("am_softmax", scale=1.0, num_subcenters=2), 2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
    torch.testing.assert_close(head(torch.tensor([[0.0, 2.0], [-3.0, 0.0]])), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize(("slot", "wrong"), [
    ("encoder", part("resnet34", base_channels=4)),
    ("encoder", part("conformer", num_heads=3)),
    ("encoder", part("conformer", kernel_size=30)),
    ("encoder", part("conformer", norm="layer")),
    ("encoder", part("transformer", positional="learned")),
    ("encoder", part("lab_transformer", num_heads=4)),
    ("encoder", part("branchformer", cgmlp_dim=577)),
    ("encoder", part("ecapa_tdnn", scale=7)),
    ("encoder", part("campplus", blocks=(4, 4))),
    ("head", part("am_softmax", ramp=2.0)),
    ("head", part("aam_softmax", margin=3.2)),
])
def test_unfit_settings_stop(slot, wrong):
    with pytest.raises(SettingError, match=wrong.name):
        build(slot, wrong, *((8, 2) if slot == "head" else (8,)))


@pytest.mark.parametrize(("slot", "name", "settings"), [
    ("encoder", "transformer", {"num_heads": 0}), ("encoder", "conformer", {"d_model": -1}),
    ("encoder", "ecapa_tdnn", {"stride": 0}), ("encoder", "transformer", {"num_layers": -1}),
    ("encoder", "campplus", {"blocks": (12, 0, 16)}), ("encoder", "logmel_cnn", {"fixed_frames": -1}),
    ("head", "mlp", {"hidden_dim": -1})])
def test_sizes_that_cannot_be_are_named(slot, name, settings):
    (key,) = settings
    with pytest.raises(SettingError, match=rf"{slot}\.{key}: -?\d is below \d"):
        complete(slot, part(name, **settings))
    complete("head", part("mlp", hidden_dim=0))
