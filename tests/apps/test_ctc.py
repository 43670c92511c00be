"""CTC: decoding, loss and error rate by hand; folds by speaker; exact resume; transcripts; what it refuses."""

import argparse
import csv
import itertools
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from src import experiments
from src.apps.ctc import command as train_ctc
from src.apps.ctc.ctc import CTC, CTCModel, load_model, save_model
from src.apps.ctc.plan import make_plan
from src.apps.ctc.run import CTCFold, run, speaker_folds
from src.apps.ctc.transcripts import read_transcripts
from src.base.errors import InputError, SettingError
from src.base.files import read_json, write_json
from src.competition.open import open_competition
from src.ledger import file as ledger
from src.model.encoders.wav2vec2 import save_encoder
from src.settings.config import override, part
from src.settings.parts import build
from src.store.store import Store
from src.training.loop import Loop
from tests.support.competitions import SPEAKERS, write_table

ENCODER = {"size": "small", "channels": 12, "d_model": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 24}
TINY = {"train.steps": 6, "train.batch_size": 2, "train.threads": 1, "train.device": "cpu", "train.valid_every": 3,
        "folds": 3, "infer.frame_budget": 200}
TONES = {"a": 400.0, "b": 1200.0, "c": 3000.0, "d": 5000.0}  # what a letter sounds like here


def say(text, seed):
    """Return a waveform of 100 ms of tone a letter, with a little noise between and behind."""
    rng, parts = np.random.default_rng(seed), []
    for letter in text:
        parts += [0.5 * np.sin(2 * np.pi * TONES[letter] * np.arange(1600) / 16000), np.zeros(400)]
    waveform = np.concatenate(parts)
    return (waveform + 0.01 * rng.standard_normal(len(waveform))).astype(np.float32)


@pytest.fixture
def spelt_dir(tmp_path):
    """Three speakers who spell three words each, and two test utterances; transcripts.csv lies beside them."""
    directory, rows = tmp_path / "toy_spelt", [("path", "text")]
    words = ("abc", "cab", "ba", "cbab", "ac", "bca", "acb", "b", "cabd")
    for i, word in enumerate(words):
        path = directory / "train" / SPEAKERS[i // 3] / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, say(word, i), 16000)
        rows.append((f"train/{SPEAKERS[i // 3]}/{i}.wav", word))
    (directory / "test").mkdir()
    for i in range(2):
        soundfile.write(directory / "test" / f"t{i}.wav", say("ab", 20 + i), 16000)
    write_table(directory / "transcripts.csv", rows)
    return directory


def experiment_of():
    return override(experiments.get("course"), {"encoder": part("wav2vec2", **ENCODER)})


def ctc_run(directory, **changes):
    plan, texts = make_plan(open_competition(directory), experiment_of(), TINY | changes)
    return plan, run(plan, texts)


def read_table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def logits_of(*paths, num_classes=4):
    """Return logits (B, T, num_classes) whose best classes are `paths`."""
    return torch.nn.functional.one_hot(torch.tensor(paths), num_classes).float() * 5


def test_greedy_decoding_by_hand():
    task = CTC(("a", "b", " "))
    logits = logits_of((0, 1, 1, 0, 1, 2, 2, 0), (3, 3, 0, 0, 2, 2, 2, 2), (0, 0, 0, 0, 0, 0, 0, 0))
    assert task.decode(logits, None) == ["aab", " b", ""]
    assert task.decode(logits, torch.tensor([4, 3, 8])) == ["a", " ", ""], "padding is not decoded"


def test_the_error_rate_by_hand():
    decoded, texts = ["kitten", "", "abc", "same"], ["sitting", "ab", "abcd", "same"]
    assert CTC.errors(decoded, texts) == (3 + 2 + 1 + 0, 7 + 2 + 4 + 4)
    assert CTC.errors(["abcd"], ["b"]) == (3, 1), "insertions count: the rate may pass one"


def test_the_vocabulary_is_the_training_parts_and_an_unknown_character_is_an_error():
    task = CTC.of(["ba", "a c"])
    assert task.tokens == (" ", "a", "b", "c")
    assert task.num_classes == 5
    targets, lengths = task.targets(["cab", "", "a?b"])
    assert targets.tolist() == [4, 2, 3, 2, 3]
    assert lengths.tolist() == [3, 0, 2]
    assert task.errors(["ab"], ["a?b"]) == (1, 3)
    assert task.targets(["?"])[0].dtype == torch.long


def test_the_loss_is_the_sum_over_all_alignments():
    torch.manual_seed(0)
    task, logits, lengths = CTC(("a", "b")), torch.randn(2, 5, 3), torch.tensor([5, 3])
    texts = ["ab", "aa"]
    losses = task.losses(logits, lengths, texts)
    for item, text in enumerate(texts):
        probs = logits[item, : lengths[item]].softmax(1)
        total = 0.0
        for path in itertools.product(range(3), repeat=int(lengths[item])):
            if task.decode(logits_of(path, num_classes=3), None) == [text]:
                total += float(torch.stack([probs[t, c] for t, c in enumerate(path)]).prod())
        assert float(losses[item]) == pytest.approx(-np.log(total) / len(text), rel=1e-4)
    assert float(task.losses(logits[:1, :2], None, ["aab"])) == 0.0, "a text that does not fit adds nothing"
    assert task.losses(logits.bfloat16(), lengths, texts).dtype == torch.float32


def test_folds_never_split_a_speaker_and_hold_out_everyone_once(spelt_dir, workspace):
    plan, _ = make_plan(open_competition(spelt_dir), experiment_of(), TINY)
    store = Store.open(plan.store_dir)
    folds = speaker_folds(store, store.train_rows, 3)
    assert sorted(np.concatenate([valid for _, valid in folds]).tolist()) == store.train_rows.tolist()
    for train, valid in folds:
        assert not set(store.labels[train]) & set(store.labels[valid])
        assert sorted([*train, *valid]) == store.train_rows.tolist()
    (train, valid), = speaker_folds(store, store.train_rows, "all")
    assert (train.tolist(), valid.tolist()) == (store.train_rows.tolist(), [])
    with pytest.raises(SettingError, match=r"folds=1: 5 folds need as many speakers .* there are 3"):
        speaker_folds(store, store.train_rows, 1)


def test_groups_within_and_across_speakers_are_held_out_with_them(spelt_dir, workspace):
    plan, _ = make_plan(open_competition(spelt_dir), experiment_of(), TINY)
    plain = Store.open(plan.store_dir)
    rows = plain.train_rows

    def folds_of(groups):
        return speaker_folds(replace(plain, groups=[*groups, *[""] * (len(plain.utt_ids) - len(groups))]), rows, 3)

    alone = speaker_folds(plain, rows, 3)
    sessions = folds_of([f"{i // 3} {i % 2}" for i in range(9)])
    for (train, valid), (train_too, valid_too) in zip(alone, sessions):
        assert (train.tolist(), valid.tolist()) == (train_too.tolist(), valid_too.tolist()), "sessions split no speaker"
    with pytest.raises(SettingError, match="there are 2"):
        folds_of(["", "", "shared", "", "", "shared", "", "", ""])  # a recording of two speakers


def test_a_stopped_run_ends_in_the_same_bytes_and_leaves_a_model(spelt_dir, workspace, monkeypatch):
    plan, result = ctc_run(spelt_dir)
    names = [f"fold_{fold}/{name}" for fold in range(3) for name in ("log.csv", "decoded.csv", "ctc.pt")]
    kept = {name: (plan.directory / name).read_bytes() for name in names}
    assert result["metric"] == "token error rate"
    assert result["num_valid"] == 9
    errors = tokens = 0
    for fold in range(3):
        rows = read_table(plan.directory / f"fold_{fold}" / "decoded.csv")
        count = CTC.errors([row["decoded"] for row in rows], [row["text"] for row in rows])
        errors, tokens = errors + count[0], tokens + count[1]
        log = read_table(plan.directory / f"fold_{fold}" / "log.csv")
        assert float(log[-1]["valid_token_error_rate"]) == pytest.approx(count[0] / count[1])
        assert (plan.directory / f"fold_{fold}" / "curves.png").exists()
    assert result["valid"] == errors / tokens
    model, task = load_model(plan.directory / "fold_2" / "ctc.pt")
    store = Store.open(plan.store_dir)
    with torch.inference_mode():
        batch = store.utterances([store.utt_ids.index(row["utt_id"]) for row in rows])
        assert task.decode(*model(batch.inputs, batch.lengths)) == [row["decoded"] for row in rows]
    for path in plan.directory.rglob("*.*"):
        path.unlink()

    class Killed(Exception):
        pass

    step = Loop._step

    def kill(loop, number, *rest):
        if number == 4 and loop.fold == 1:
            raise Killed
        return step(loop, number, *rest)

    monkeypatch.setattr(Loop, "_step", kill)
    with pytest.raises(Killed):
        ctc_run(spelt_dir)
    monkeypatch.setattr(Loop, "_step", step)
    ctc_run(spelt_dir)
    assert {name: (plan.directory / name).read_bytes() for name in names} == kept
    (plan.directory / "result.json").unlink()
    for fold in range(3):  # folds that are done are counted, not done again
        path = plan.directory / f"fold_{fold}" / "result.json"
        write_json(path, {**read_json(path), "valid_errors": fold, "valid_tokens": 10 * (fold + 1)})
    assert ctc_run(spelt_dir)[1]["valid"] == 3 / 60


def test_a_checkpoint_rebuilds_itself_without_the_file_that_it_started_from(workspace):
    torch.manual_seed(0)
    path = workspace / "encoder.pt"
    experiment = override(experiment_of(), {"encoder.weights": str(path)})
    save_encoder(path, build("encoder", part("wav2vec2", **ENCODER), 0))
    model = CTCModel(experiment, 3).eval()
    save_model(workspace / "ctc.pt", model, experiment, CTC("ab"))
    path.unlink()
    again, task = load_model(workspace / "ctc.pt")
    waveform = torch.randn(1, 2000)
    assert task.tokens == ("a", "b")
    assert torch.equal(again(waveform, None)[0], model(waveform, None)[0])
    save_encoder(path, model.encoder)
    with pytest.raises(InputError, match="not a CTC model"):
        load_model(path)


def test_an_epoch_sees_every_utterance_whole_in_batches_of_like_length(spelt_dir, workspace):
    plan, texts = make_plan(open_competition(spelt_dir), experiment_of(), TINY)
    store = Store.open(plan.store_dir)
    rows = store.train_rows[:8]
    fold = CTCFold(plan, texts, store, 0, rows, store.train_rows[8:])
    batches = [fold.batch_rows(step) for step in range(16)]  # two windows of eight batches of two: four epochs of eight
    for first in (0, 8):
        seen = np.sort(np.concatenate(batches[first : first + 8]))
        assert seen.tolist() == sorted(rows.tolist() * 2)
    spread = [np.ptp(store.num_frames[batch]) for batch in batches]
    assert max(spread) <= np.ptp(store.num_frames[rows]) / 2
    lengths = [store.num_frames[batch].max() for batch in batches[:8]]
    assert lengths != sorted(lengths), "not from short to long"
    assert fold.task.tokens == tuple(sorted(set("".join(fold.texts(rows)))))


def test_a_batch_is_decoded_as_each_utterance_alone_and_in_the_order_asked_for(spelt_dir, workspace):
    plan, texts = make_plan(open_competition(spelt_dir), experiment_of(), TINY)
    store = Store.open(plan.store_dir)
    fold = CTCFold(plan, texts, store, 0, store.train_rows, store.train_rows[:0])
    torch.nn.init.normal_(fold.model.output.weight, std=5.0)  # so that frames differ in their best class
    decoded, loss = fold.decode(store.train_rows)
    alone = [fold.decode(store.train_rows[i : i + 1]) for i in range(len(store.train_rows))]
    assert decoded == [texts[0] for texts, _ in alone]
    assert len(set(decoded)) > 3
    assert loss == pytest.approx(np.mean([value for _, value in alone]), rel=1e-3)


def test_words_are_learnt_from_tones_and_padding_changes_no_text(spelt_dir, workspace):
    plan, texts = make_plan(open_competition(spelt_dir), experiment_of(),
                            TINY | {"encoder.dropout": 0.0, "optim.lr": 1e-2, "train.steps": 60})
    store = Store.open(plan.store_dir)
    torch.manual_seed(0)
    task = CTC.of(texts.values())
    model = CTCModel(plan.experiment, task.num_classes)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    rows = store.train_rows
    batch, wanted = store.utterances(rows), [texts[store.utt_ids[row]] for row in rows]
    losses = []
    for _ in range(60):
        loss = task.losses(*model(batch.inputs, batch.lengths), wanted).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    model.eval()
    with torch.inference_mode():
        decoded = task.decode(*model(batch.inputs, batch.lengths))
        alone = [task.decode(*model(store.utterances([row]).inputs, None))[0] for row in rows]
    errors, tokens = task.errors(decoded, wanted)
    assert errors / tokens < 0.3, (losses[::10], decoded, wanted)
    assert decoded == alone


def test_the_command_records_a_row_with_its_metric(spelt_dir, workspace, monkeypatch, capsys):
    monkeypatch.setitem(experiments.EXPERIMENTS, "toy", ("course", "toy", {"encoder": part("wav2vec2", **ENCODER)}))
    parser = argparse.ArgumentParser()
    train_ctc.add_arguments(parser)
    settings = [word for key, value in TINY.items() if key not in ("train.steps", "folds")
                for word in ("--set", f"{key}={value}")]
    command = ["--data", str(spelt_dir), "--experiment", "toy", "--steps", "2", "--set", "folds=all", *settings]
    for _ in range(2):
        train_ctc.main(parser.parse_args(command))
    rows = ledger.read()
    assert len(rows) == 1, "a finished run is recorded once"
    assert (rows[0]["metric"], rows[0]["head"], rows[0]["pooling"], rows[0]["valid"]) == \
        ("token error rate", "ctc", "", "")
    assert float(rows[0]["train"]) > 0
    assert rows[0]["run_id"].startswith("toy_spelt/ctc-toy-")
    assert "skipped" in capsys.readouterr().out


def test_transcripts_come_from_the_table_or_a_csv_and_a_wrong_one_stops(spelt_dir, workspace):
    competition = open_competition(spelt_dir)
    texts = read_transcripts(competition)
    assert texts["train/anna/0.wav"] == "abc"
    assert len(texts) == 9
    other = workspace / "other.csv"
    write_table(other, [("path", "text"), ("train/anna/0.wav", "cc"), ("train/anna/1.wav", "")])
    assert read_transcripts(competition, other) == {"train/anna/0.wav": "cc"}
    write_table(other, [("path", "text"), ("test/t0.wav", "cc")])
    with pytest.raises(InputError, match=r"other\.csv: path: 'test/t0\.wav' is no training utterance"):
        read_transcripts(competition, other)
    write_table(other, [("path", "text"), *[("train/anna/0.wav", text) for text in ("ab", "ba")]])
    with pytest.raises(InputError, match=r"'train/anna/0\.wav' stands in lines 2 and 3"):
        read_transcripts(competition, other)
    write_table(other, [("path", "text"), ("train/anna/0.wav", "")])
    with pytest.raises(InputError, match="empty"):
        read_transcripts(competition, other)
    (spelt_dir / "transcripts.csv").unlink()
    with pytest.raises(InputError, match=r"no transcripts; give a CSV"):
        read_transcripts(competition)
    write_table(spelt_dir / "utterances.csv", [("path", "text"), *((f"train/{SPEAKERS[i // 3]}/{i}.wav", "abc"[i // 3])
                                                                  for i in range(9))])
    assert read_transcripts(open_competition(spelt_dir))["train/bert/4.wav"] == "b"


def test_what_is_frozen_stays_as_it_was_pretrained(spelt_dir, workspace):
    pretrained = build("encoder", part("wav2vec2", **ENCODER), 0)
    save_encoder(workspace / "encoder.pt", pretrained)
    plan, _ = ctc_run(spelt_dir, **{"encoder.weights": str(workspace / "encoder.pt"),
                                    "finetune.regime": "freeze_first", "finetune.layers": 0})
    trained = load_model(plan.directory / "fold_0" / "ctc.pt")[0].encoder
    same = {key for key, value in trained.state_dict().items() if torch.equal(value, pretrained.state_dict()[key])}
    assert {key.split(".")[0] for key in same} >= {"feature_encoder", "projection", "positions"}
    assert not {key for key in same if key.startswith("layers.") and key.endswith("weight")}


def test_what_ctc_cannot_use_stops(spelt_dir, workspace):
    competition = open_competition(spelt_dir)
    for changes, said in (({"pooling": "max"}, "pooling: CTC does not use"), ({"encoder": "transformer"}, "log-mels"),
                          ({"finetune.regime": "remove_heads", "finetune.remove": 1}, r"finetune\.remove: .*heads"),
                          ({"train.mixup": 0.1}, r"train\.mixup"), ({"optim.lrate": 1.0}, "did you mean 'lr'")):
        with pytest.raises(SettingError, match=said):
            make_plan(competition, experiment_of(), TINY | changes)
