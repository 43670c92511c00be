"""The five regimes over every attention encoder, and the importance of heads against its formula."""

import argparse
import copy
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from src import experiments
from src.apps import head_importance
from src.base.errors import RunError, SettingError
from src.competition.open import open_competition
from src.model import attention_heads, finetune
from src.model.checkpoint import load_model
from src.preprocess import preprocess
from src.runs.plan import make_plan
from src.settings.config import Optim, override, part
from src.settings.parts import build, catalogue
from src.store.store import Store
from src.training import head_removal
from src.training.loop import Loop
from src.training.optim import build_optimiser
from src.training.run import run as train

SMALL = {  # settings of an encoder of several layers and heads; in train mode nothing is drawn
    "transformer": {"d_model": 12, "num_layers": 3, "num_heads": 3, "feed_forward_dim": 16},
    "conformer": {"d_model": 12, "num_layers": 3, "num_heads": 3, "feed_forward_dim": 16, "kernel_size": 3},
    "branchformer": {"d_model": 12, "num_layers": 3, "num_heads": 3, "cgmlp_dim": 16, "kernel_size": 3},
    "lab_transformer": {"d_model": 12, "num_heads": 3},
    "lab_conformer": {"d_model": 12, "num_heads": 3, "feed_forward_dim": 16, "kernel_size": 3},
    "hubert": {"size": "small", "layer_drop": 0.0, "layer": "mix"},
    "hubert_logmel": {"size": "small", "layer_drop": 0.0, "join": "weighted"},
    "wav2vec2": {"size": "small", "channels": 16, "d_model": 12, "num_layers": 3, "num_heads": 3,
                 "feed_forward_dim": 16},
    "wav2vec2_decoder": {"size": "small", "channels": 16, "d_model": 12, "num_layers": 2, "num_heads": 3,
                         "feed_forward_dim": 16},
}
NAMES = [*(name for name in SMALL if name in catalogue("encoder")), "bert"]
ARGUMENTS = {"full": {}, "freeze_first": {"layers": 1}, "embedding_and_last": {}, "first_layers": {"layers": 1},
             "remove_heads": {"heads": ((0, 1), (1, 0), (1, 2))}}
encoders = pytest.mark.parametrize("name", NAMES)
regimes = pytest.mark.parametrize("regime", finetune.REGIMES)


class Bert(nn.Module):
    """A BertModel that makes token ids of frames (B, T, 12), so that it is called as the other encoders are."""

    def __init__(self):
        super().__init__()
        transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
        self.bert = transformers.BertModel(transformers.BertConfig(
            vocab_size=20, hidden_size=12, num_hidden_layers=3, num_attention_heads=3, intermediate_size=16,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))

    def forward(self, frames, lengths):
        """Return frames (B, T, 12), the pooled output added so that the pooler learns too."""
        out = self.bert((10 * frames[..., 0]).abs().long() % 20)
        return out.last_hidden_state + out.pooler_output[:, None], lengths


def make(name, seed=0):
    """Return a small encoder without dropout."""
    torch.manual_seed(seed)
    if name == "bert":
        return Bert()
    return build("encoder", part(name, dropout=0.0, **SMALL[name]), 12)


def inputs_of(name, count=2):
    torch.manual_seed(1)
    waveform = name.startswith(("hubert", "wav2vec2"))
    return 0.1 * torch.randn(count, 3000) if waveform else torch.randn(count, 9, 12)


def ruled(name, regime):
    """Return an encoder under a regime, or skip where the two do not go together."""
    encoder = make(name)
    if regime == "first_layers" and len(attention_heads.stacks_of(encoder)) > 1:
        with pytest.raises(SettingError, match="first_layers cuts one stack"):
            finetune.apply(encoder, regime, layers=1)
        pytest.skip("a decoder needs its encoder whole")
    finetune.apply(encoder, regime, **ARGUMENTS[regime])
    return encoder


def losses_of(encoder, inputs):
    """Return losses (B,) that every weight moves: a plain mean square says nothing after a layer norm."""
    frames = encoder(inputs, None)[0]
    return ((frames * torch.linspace(-1, 1, frames.shape[2], dtype=frames.dtype)).sum(2) - 1).square().mean(1)


@encoders
@regimes
def test_what_learns_moves_and_what_is_frozen_stays_and_costs_nothing(name, regime, tmp_path):
    encoder = ruled(name, regime)
    before = copy.deepcopy(encoder.state_dict())
    learning = {key for key, parameter in encoder.named_parameters() if parameter.requires_grad}
    optim = Optim(lr=1e-2, warmup_steps=0, ema_decay=0.5, grad_clip=1.0)
    inputs = inputs_of(name)
    Loop(encoder, optim, 3, lambda step: {"loss": losses_of(encoder, inputs).mean()}, tmp_path, seed=0).run()
    assert finetune.count(encoder) == (sum(p.numel() for k, p in encoder.named_parameters() if k in learning),
                                       sum(p.numel() for p in encoder.parameters()))
    still = {key for key, value in encoder.state_dict().items() if torch.equal(value, before[key])}
    alone = {"mix.weights", "hubert.mix.weights"} if regime == "first_layers" else set()  # a share of one layer is one
    assert not still & learning - alone
    frozen = {key for key, _ in encoder.named_parameters()} - learning
    layers = [f"{key}." for key, module in encoder.named_modules() if module in attention_heads.layers_of(encoder)]
    if regime in ("full", "first_layers", "remove_heads"):
        assert not frozen
    elif regime == "freeze_first":
        assert frozen >= {key for key in before if key.startswith(layers[0]) and key in learning | frozen}
        assert learning >= {key for key in learning | frozen if key.startswith(tuple(layers[1:]))}
    else:
        assert frozen == {key for key in learning | frozen if key.startswith(tuple(layers[:-1]))}
    if frozen:
        asleep = {key for key in before if key in frozen or (key.startswith(layers[0]) and "num_batches" not in key)}
        assert asleep <= still  # statistics of batch norms too
    state = torch.load(tmp_path / "last.pt", weights_only=True)["optimiser"]
    assert len(state["state"]) == len(state["param_groups"][0]["params"]) == len(learning)


@encoders
def test_freeze_first_takes_what_comes_before_the_layers_along(name):
    encoder = make(name)
    finetune.apply(encoder, "freeze_first", layers=1)
    frozen = {key.split(".")[0] for key, parameter in encoder.named_parameters() if not parameter.requires_grad}
    learning = {key.split(".")[0] for key, parameter in encoder.named_parameters() if parameter.requires_grad}
    before = {"transformer": "prenet", "conformer": "prenet", "wav2vec2": "feature_encoder", "hubert": "hubert"}
    assert before.get(name, next(iter(frozen))) in frozen
    if name == "hubert_logmel":  # beside HuBERT, and after it
        assert {"cnn", "mix"} <= learning
        assert "cnn" not in frozen
    x = inputs_of(name).requires_grad_()
    encoder(x, None)[0].sum().backward()
    assert all(p.grad is None for p in encoder.parameters() if not p.requires_grad)
    no_layers = make(name)
    finetune.apply(no_layers, "freeze_first", layers=0)
    of_layer = {id(parameter) for parameter in attention_heads.layers_of(no_layers)[0].parameters()}
    now = {key for key, parameter in no_layers.named_parameters() if not parameter.requires_grad}
    was = {key for key, parameter in encoder.named_parameters() if not parameter.requires_grad}
    assert was - now == {key for key, parameter in no_layers.named_parameters() if id(parameter) in of_layer}


def test_what_stands_between_two_frozen_stacks_is_frozen_too():
    encoder = make("wav2vec2_decoder")
    count = len(attention_heads.stacks_of(encoder)[0])
    for layers, is_frozen in ((count, False), (count + 1, True)):
        encoder.requires_grad_(True)
        finetune.apply(encoder, "freeze_first", layers=layers)
        between = [p for key, p in encoder.named_parameters() if key.startswith("norm.")]
        assert between
        assert all(p.requires_grad != is_frozen for p in between), layers


@encoders
def test_all_regimes_start_from_the_same_weights_and_draw_nothing(name):
    start, draws = make(name).state_dict(), []
    for regime, arguments in ARGUMENTS.items():
        encoder = make(name)
        if not (regime == "first_layers" and len(attention_heads.stacks_of(encoder)) > 1):
            finetune.apply(encoder, regime, **arguments)
        draws.append(torch.rand(1).item())
        for key, value in encoder.state_dict().items():
            kept = start[key] if value.shape == start[key].shape else None
            assert kept is None or torch.equal(value, kept), (regime, key)
            assert regime == "remove_heads" or kept is not None
    assert len(set(draws)) == 1


@encoders
def test_removed_heads_leave_the_rest_as_it_was_and_are_gone_from_the_file(name, tmp_path):
    """The reference is the whole encoder with the columns of those heads' outputs at zero."""
    encoder, reference = make(name).eval(), make(name).eval()
    heads = ((0, 0), (1, 0), (1, 2)) if "hubert" not in name else ((0, 3), (1, 0), (1, 2))
    if name == "wav2vec2_decoder":  # a decoder layer's heads 0 to 2 look at itself, 3 to 5 at the encoder
        heads += ((2, 4), (3, 1))
    every = attention_heads.heads_of(reference)
    with torch.no_grad():
        for layer, head in heads:
            attention, index = every[layer][head]
            dim = attention.head_dim
            attention.output.weight[:, index * dim : (index + 1) * dim] = 0
    finetune.apply(encoder, "remove_heads", heads=heads)
    assert [len(row) for row in attention_heads.heads_of(encoder)][:2] == [len(every[0]) - 1, len(every[1]) - 2]
    inputs = inputs_of(name)
    expected = reference(inputs, None)[0]
    torch.testing.assert_close(encoder(inputs, None)[0], expected, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():  # attention takes another kernel
        torch.testing.assert_close(encoder(inputs, None)[0], expected, atol=1e-5, rtol=1e-5)
    sizes = []
    for module in (encoder, reference):
        torch.save(module.state_dict(), tmp_path / "state.pt")
        sizes.append((tmp_path / "state.pt").stat().st_size)
    saved = 4 * (finetune.count(reference)[1] - finetune.count(encoder)[1])
    assert saved > 0
    assert sizes[1] - sizes[0] == pytest.approx(saved, rel=0.1, abs=1500)  # file's own padding
    torch.save(encoder.state_dict(), tmp_path / "state.pt")
    rebuilt, state = make(name, seed=9).eval(), torch.load(tmp_path / "state.pt", weights_only=True)
    attention_heads.fit_heads(rebuilt, state)
    rebuilt.load_state_dict(state)
    assert torch.equal(rebuilt(inputs, None)[0], encoder(inputs, None)[0])


@encoders
def test_first_layers_are_the_whole_encoders_own(name):
    encoder, whole = make(name).eval(), make(name).eval()
    if len(attention_heads.stacks_of(whole)) > 1:
        pytest.skip("a decoder needs its encoder whole")
    finetune.apply(encoder, "first_layers", layers=1)
    for layer in attention_heads.layers_of(whole)[1:]:  # the same frames go in and come out
        layer.forward = lambda x, *_, **__: (x, None) if "hubert" in name else x  # torchaudio's layers return pairs
    inputs = inputs_of(name)
    torch.testing.assert_close(encoder(inputs, None)[0], whole(inputs, None)[0], atol=1e-5, rtol=1e-5)
    assert finetune.count(encoder)[1] < finetune.count(whole)[1]


def test_frozen_batch_norm_stays_in_eval_whatever_the_model_is_set_to():
    encoder = make("conformer")
    finetune.apply(encoder, "freeze_first", layers=1)
    frames = 5 + torch.randn(4, 9, 12)
    norm = encoder.conformer_layers[0].conv_module.sequential[3]
    other = encoder.conformer_layers[1].conv_module.sequential[3]
    encoder.train()(frames, None)
    assert norm.running_mean.abs().sum() == 0
    assert other.running_mean.abs().sum() > 0


def test_frozen_parameters_are_not_in_the_optimiser():
    encoder = make("transformer")
    finetune.apply(encoder, "embedding_and_last")
    held = build_optimiser(list(encoder.parameters()), Optim(), "cpu").param_groups[0]["params"]
    assert {id(p) for p in held} == {id(p) for p in encoder.parameters() if p.requires_grad}
    assert finetune.describe(encoder, "embedding_and_last").startswith("finetune embedding_and_last: ")
    assert " of ".join(f"{count:,}" for count in finetune.count(encoder)) in finetune.describe(encoder, "x")


@pytest.mark.parametrize(("regime", "arguments", "said"), [
    ("half", {}, "'half' is none of full"),
    ("freeze_first", {"layers": 4}, "finetune.layers: 4, but the encoder has 3"),
    ("first_layers", {"layers": 0}, "give 1 to 3"),
    ("remove_heads", {}, "finetune.heads=.* or set finetune.remove"),
    ("remove_heads", {"heads": [(0, 3)]}, "no head 3 in layer 0"),
    ("remove_heads", {"heads": [(3, 0)]}, "no head 0 in layer 3"),
    ("remove_heads", {"heads": [(1, 0), (1, 1), (1, 2)]}, "layer 1 would keep no head"),
    ("full", {"heads": [(0, 0)]}, "regime 'full' removes none"),
    ("full", {"remove": 2}, "finetune.remove: regime 'full' removes none"),
    ("remove_heads", {"heads": [(0, 0)], "remove": 1}, "not both"),
])
def test_unfit_settings_stop_and_change_nothing(regime, arguments, said):
    encoder = make("transformer")
    before = finetune.count(encoder)
    with pytest.raises(SettingError, match=said):
        finetune.apply(encoder, regime, **arguments)
    assert finetune.count(encoder) == before


def test_an_encoder_without_attention_stops():
    encoder = build("encoder", part("ecapa_tdnn", channels=16, scale=4, aggregate_dim=24, se_dim=8), 12)
    finetune.apply(encoder, "full")
    with pytest.raises(SettingError, match="ECAPA_TDNN has no attention layers"):
        finetune.apply(encoder, "freeze_first", layers=1)


# The importance of heads


@encoders
def test_importance_is_the_slope_of_the_loss_in_a_heads_gate(name):
    """Against a finite difference: the loss of each example with one head's output scaled by 1 + h and 1 - h."""
    is_single = name.startswith("wav2vec2")  # scales its waveform in float32, whatever it is given
    kind, step, tolerance = (torch.float32, 3e-2, 3e-2) if is_single else (torch.float64, 1e-4, 1e-3)
    encoder, inputs = make(name).to(kind).eval(), inputs_of(name, count=3).to(kind)

    importance = attention_heads.measure(encoder, [inputs[:2], inputs[2:]], lambda items: losses_of(encoder, items))
    every = attention_heads.heads_of(encoder)
    expected = np.full(importance.shape, np.nan)
    for layer, row in enumerate(every):
        for head, (attention, index) in enumerate(row):
            columns = slice(index * attention.head_dim, (index + 1) * attention.head_dim)
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    attention.output.weight[:, columns] *= 1 + sign * step
                    values.append(losses_of(encoder, inputs))
                    attention.output.weight[:, columns] /= 1 + sign * step
            expected[layer, head] = ((values[0] - values[1]) / (2 * step)).abs().mean().item()
        expected[layer] /= np.sqrt(np.nansum(expected[layer] ** 2))
    np.testing.assert_allclose(importance, expected, rtol=tolerance, atol=tolerance / 10)
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert not any(attention.output._forward_pre_hooks for row in every for attention, _ in row)


def test_the_least_important_heads_go_and_each_layer_keeps_its_best():
    importance = np.array([[0.1, 0.2, 0.05], [0.9, 0.3, np.nan]])
    assert attention_heads.least_important(importance, 2) == ((0, 0), (0, 2))
    assert attention_heads.least_important(importance, 3) == ((0, 0), (0, 2), (1, 1))
    for wrong in (0, 4):
        with pytest.raises(SettingError, match="1 to 3 heads can go"):
            attention_heads.least_important(importance, wrong)


def test_measured_heads_are_kept_in_a_file_and_a_resumed_run_removes_the_same(tmp_path):
    first, again = make("transformer").eval(), make("transformer", seed=5).eval()
    inputs = inputs_of("transformer")

    importance = attention_heads.measure(first, [inputs], lambda items: losses_of(first, items))
    head_removal.remove_least_important(first, 2, tmp_path, [inputs], lambda items: losses_of(first, items))
    removed = attention_heads.least_important(importance, 2)
    left = [3 - sum(layer == number for layer, _ in removed) for number in range(3)]
    assert [len(row) for row in attention_heads.heads_of(first)] == left
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")
    head_removal.remove_least_important(again, 2, tmp_path, [], None)  # no batch: nothing is measured
    num_heads = [len(row) for row in attention_heads.heads_of(first)]
    assert [len(row) for row in attention_heads.heads_of(again)] == num_heads
    with pytest.raises(SettingError, match="no batch"):
        attention_heads.measure(again, [], None)


def test_the_command_measures_a_finished_run(workspace, frames_dir, capsys):
    competition = open_competition(frames_dir)
    settings = {"encoder": part("transformer", d_model=8, num_layers=2, num_heads=2, feed_forward_dim=8), "folds": 1,
                "train.steps": 2, "train.batch_size": 4, "train.crop_frames": 6, "train.threads": 1,
                "train.device": "cpu"}
    experiment = override(experiments.get("course"), settings)
    plan = make_plan(competition.name, preprocess(competition, experiment.features), experiment)
    store = Store.open(plan.store_dir)
    train(plan, store)
    parser = argparse.ArgumentParser()
    head_importance.add_arguments(parser)
    head_importance.main(parser.parse_args([plan.run_id, "--utterances", "3"]))
    written = json.loads((plan.directory / "head_importance.json").read_text())["importance"]
    assert (plan.directory / "head_importance.png").read_bytes().startswith(b"\x89PNG")
    assert "layer  2: " in capsys.readouterr().out
    model, _, _ = load_model(plan.directory / "fold_0" / "model.pt")
    held_out = sorted(store.folds(1)[0][1], key=lambda row: store.num_frames[row])[:3]
    expected = attention_heads.measure(model.encoder, held_out, lambda row: F.cross_entropy(
        model(store.utterances([row]).inputs), store.utterances([row]).labels, reduction="none"))
    np.testing.assert_allclose(written, expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(SettingError, match="--utterances 0"):
        head_importance.main(parser.parse_args([plan.run_id, "--utterances", "0"]))
    table = frames_dir / "frames.csv"
    table.write_text(table.read_text().replace(",anna,", ",zoe,"))
    preprocess(open_competition(frames_dir), experiment.features)
    (plan.directory / "head_importance.json").unlink()
    head_importance.main(parser.parse_args([plan.run_id, "--utterances", "3"]))
    again = json.loads((plan.directory / "head_importance.json").read_text())["importance"]
    assert again == written, "measured on the store that the run was trained on, not on that of the changed data"
    (plan.store_dir / "meta.json").unlink()
    with pytest.raises(RunError, match=r"store \w+ is gone"):
        head_importance.main(parser.parse_args([plan.run_id]))
