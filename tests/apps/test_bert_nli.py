"""Sentence pairs: reading, tokenising, BERT's classifier and the five regimes through the command."""

import argparse
import csv
import json
import random

import numpy as np
import pytest
import torch

from src.apps.bert_nli import command as bert_nli
from src.apps.bert_nli import pairs as sentence_pairs
from src.apps.bert_nli import plan as pair_plan
from src.apps.bert_nli.pairs import Pair
from src.apps.bert_nli.report import report
from src.base.errors import DivergedError, InputError, SettingError
from src.ledger import file as ledger
from src.model import finetune

needs_transformers = pytest.mark.usefixtures("transformers")
LABELS = ("contradiction", "entailment", "neutral")


@pytest.fixture
def transformers():
    """The optional package."""
    return pytest.importorskip("transformers", reason="the package transformers is not installed")


@pytest.fixture
def tokens(transformers):
    """The module that makes tokens, which imports the optional package."""
    from src.apps.bert_nli import tokenizer

    return tokenizer


def write_pairs(path, rows, header=("premise", "hypothesis", "label")):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def sentences(count):
    """Return rows whose class stands in a word of the hypothesis: learnt in a few steps."""
    rng, rows = random.Random(0), []
    for i in range(count):
        who, what = rng.choice(["the cat", "a dog", "my uncle", "anna"]), rng.choice(["sleeps", "sings", "runs"])
        label = LABELS[i % 3]
        extra = {"contradiction": "never", "entailment": "indeed", "neutral": "perhaps"}[label]
        rows.append((f"{who} {what} near house {i}", f"{extra} {who} {what}", label))
    return rows


def options(*words):
    parser = argparse.ArgumentParser()
    bert_nli.add_arguments(parser)
    return parser.parse_args(words)


def test_reading_a_csv(tmp_path):
    path = write_pairs(tmp_path / "pairs.csv", [("n", " A, b. ", "Is \"it\"?", "neutral"), ("m", "ü", "x\ny", "other")],
                       ("id", "premise", "hypothesis", "label"))
    assert sentence_pairs.read_pairs(path) == [Pair("A, b.", 'Is "it"?', "neutral"), Pair("ü", "x\ny", "other")]
    assert sentence_pairs.label_names(sentence_pairs.read_pairs(path)) == ("neutral", "other")


@pytest.mark.parametrize(("content", "said"), [
    ("premise,label\na,b\n", "no column hypothesis"),
    ("premise,hypothesis,label\na,b,c\na,,c\n", "line 3: an empty hypothesis"),
    ("premise,hypothesis,label\na,b\n", "line 2: an empty label"),
    ("premise,hypothesis,label\n", "holds no pairs"),
    ("premise,hypothesis,label\n\"a,b,c\n", "not readable"),
    (b"premise,hypothesis,label\n\xff\xfe,b,c\n", "not readable"),
])
def test_a_csv_that_does_not_fit_stops_with_its_name(tmp_path, content, said):
    path = tmp_path / "pairs.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=f"pairs.csv.*{said}"):
        sentence_pairs.read_pairs(path)
    with pytest.raises(InputError, match=r"absent\.csv"):
        sentence_pairs.read_pairs(tmp_path / "absent.csv")


def test_labels():
    pairs = [Pair("p", "h", label) for label in ("b", "a", "b")]
    assert sentence_pairs.label_indices(pairs, ("a", "b")).tolist() == [1, 0, 1]
    with pytest.raises(InputError, match="label 'b'"):
        sentence_pairs.label_indices(pairs, ("a", "c"))
    with pytest.raises(InputError, match="only one class, 'b'"):
        sentence_pairs.label_names(pairs[:1])


def test_a_fifth_is_held_out_by_class_and_no_premise_is_on_both_sides():
    pairs = [Pair(f"premise {i // 3}", "h", LABELS[i % 3]) for i in range(90)]
    train, valid = sentence_pairs.hold_out(pairs)
    assert sorted(train + valid) == sorted(pairs)
    assert {pair.premise for pair in train}.isdisjoint(pair.premise for pair in valid)
    assert [sum(pair.label == name for pair in valid) for name in LABELS] == [6, 6, 6]
    assert sentence_pairs.hold_out(pairs) == (train, valid)
    with pytest.raises(InputError, match="4 of 'neutral'"):
        sentence_pairs.hold_out([Pair(str(i), "h", "neutral" if i < 4 else "other") for i in range(30)])


def test_pairs_become_berts_tokens(tmp_path, tokens):
    pairs = [Pair("The cat sleeps", "A cat", "x"), Pair("the cat", "the cat sleeps " * 9, "y")]
    tokenizer = tokens.train_tokenizer(pairs, vocab_size=60, max_length=12)
    short, long = tokens.encode(tokenizer, pairs)
    pieces = [tokenizer.id_to_token(i) for i in short.ids]
    assert pieces == ["[CLS]", "the", "cat", "sleeps", "[SEP]", "a", "cat", "[SEP]"]
    assert short.type_ids == (0, 0, 0, 0, 0, 1, 1, 1)
    assert tokenizer.token_to_id("[PAD]") == 0
    assert len(long.ids) == 12
    assert [tokenizer.id_to_token(i) for i in long.ids[:4]] == ["[CLS]", "the", "cat", "[SEP]"]
    vocab = tokenizer.get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)) + "\n")
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    for name in ("vocab.txt", "tokenizer.json"):
        assert tokens.encode(tokens.load_tokenizer(tmp_path / name, 12), pairs) == [short, long]
    odd = [*tokens.SPECIAL, "\u2028", "Ähre", "ahre"]
    (tmp_path / "vocab.txt").write_text("\n".join(odd) + "\n", encoding="utf-8")
    for settings, piece in (({}, "ahre"), ({"do_lower_case": False}, "Ähre")):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        tokenizer = tokens.load_tokenizer(tmp_path / "vocab.txt", 12)
        assert tokenizer.encode("Ähre").ids[1] == odd.index(piece)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nthe\n")
    with pytest.raises(InputError, match=r"vocab.txt.*\[CLS\]"):
        tokens.load_tokenizer(tmp_path / "vocab.txt", 12)
    with pytest.raises(SettingError, match="max_length 4"):
        tokens.train_tokenizer(pairs, 60, 4)


@needs_transformers
def test_a_padded_batch_gives_each_pair_alone_and_order_is_restored(tokens):
    from src.apps.bert_nli.classifier import PairClassifier, collate, make_config, predict

    torch.manual_seed(0)
    model = PairClassifier(make_config("small", 30, 64), 3).eval()
    items = [tokens.Encoded(tuple(range(2, 2 + n)), (0,) * (n - 2) + (1, 1)) for n in (5, 19, 8)]
    alone = torch.cat([model(*collate([item], "cpu")) for item in items])
    torch.testing.assert_close(model(*collate(items, "cpu")), alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(predict(model.train(), items, "cpu", 2), alone, atol=1e-4, rtol=1e-4)


@needs_transformers
def test_huggingface_weights_are_read_with_their_vocabulary(tmp_path, transformers, tokens):
    from src.apps.bert_nli.classifier import PairClassifier, collate, load_bert, make_config

    config = transformers.BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                     intermediate_size=24, max_position_embeddings=32)
    theirs = transformers.BertModel(config).eval()
    theirs.save_pretrained(tmp_path)
    model = PairClassifier(make_config("small", 40, 32, tmp_path), 3).eval()
    load_bert(model, tmp_path)
    ids, type_ids, lengths = collate([tokens.Encoded((2, 7, 9, 3), (0, 0, 1, 1))], "cpu")
    expected = model.classifier(theirs(input_ids=ids, token_type_ids=type_ids).pooler_output)
    torch.testing.assert_close(model(ids, type_ids, lengths), expected)
    with pytest.raises(InputError, match=r"made for 40 pieces and 32 tokens"):
        make_config("small", 41, 32, tmp_path)
    with pytest.raises(InputError, match=r"config\.json"):
        make_config("small", 41, 32, tmp_path / "absent")


def test_settings_of_each_regime():
    chosen = {regime: pair_plan.study_of(options("--pairs", "x.csv", "--size", "base"), regime)
              for regime in bert_nli.REGIMES}
    assert bert_nli.REGIMES == finetune.REGIMES
    assert (chosen["freeze_first"].layers, chosen["first_layers"].layers) == (9, 9)
    assert (chosen["remove_heads"].remove, chosen["full"].remove) == (36, 0)
    given = pair_plan.study_of(options("--pairs", "x.csv", "--heads", "0.1,1.3"), "remove_heads")
    assert (given.heads, given.remove) == (((0, 1), (1, 3)), 0)
    assert pair_plan.study_of(options("--pairs", "x.csv", "--layers", "0"), "freeze_first").layers == 0
    for wrong in (("--heads", "0-1"), ("--heads", "0.1.2"), ("--epochs", "0"), ("--lr", "-1"), ("--seed", "-1")):
        with pytest.raises(SettingError):
            pair_plan.study_of(options("--pairs", "x.csv", *wrong), "remove_heads")


def test_all_five_regimes_through_the_command(workspace, capsys, monkeypatch, tokens):
    from src.apps.bert_nli.classifier import load_classifier, predict

    monkeypatch.setattr(pair_plan, "usable_cpus", lambda: 1)
    path = write_pairs(workspace / "toy.csv", sentences(60))
    words = ("--pairs", str(path), "--epochs", "5", "--batch-size", "12", "--lr", "2e-3", "--vocab-size", "100")
    bert_nli.main(options(*words))
    said = capsys.readouterr().out
    directories = {d.name.rpartition("-")[0]: d for d in (workspace / "data" / "runs" / "toy").iterdir()}
    assert set(directories) == {"bert_nli", *(f"bert_nli_{regime}" for regime in bert_nli.REGIMES[1:])}
    rows = {row["experiment"]: row for row in ledger.read()}
    assert set(rows) == set(directories)
    sizes = {name: (directory / "model.pt").stat().st_size for name, directory in directories.items()}
    assert sizes["bert_nli"] == sizes["bert_nli_freeze_first"] == sizes["bert_nli_embedding_and_last"]
    assert sizes["bert_nli_first_layers"] < sizes["bert_nli_remove_heads"] < sizes["bert_nli"]
    for name, directory in directories.items():
        row = rows[name]
        assert row["parent"] == ("" if name == "bert_nli" else "bert_nli")
        assert row["parent_group"] == ("" if name == "bert_nli" else rows["bert_nli"]["group"])
        assert row["metric"] == "accuracy"
        written = (directory / "report.txt").read_text()
        assert written in said
        assert all(label in written for label in LABELS)
        assert not (directory / "last.pt").exists()
        model, names = load_classifier(directory / "model.pt")
        assert names == LABELS
        train, valid = sentence_pairs.hold_out(sentence_pairs.read_pairs(path))
        tokenizer = tokens.load_tokenizer(directory / "tokenizer.json", 128)
        for part, pairs in (("train", train), ("valid", valid)):
            predicted = predict(model, tokens.encode(tokenizer, pairs), "cpu", 50).argmax(1).numpy()
            right = (predicted == sentence_pairs.label_indices(pairs, names)).mean()
            assert right == pytest.approx(float(row[part]), abs=1e-5), (name, part)
    assert float(rows["bert_nli"]["valid"]) > 0.8
    assert "finetune full: " in said
    assert rows["bert_nli_remove_heads"]["changed"] == ("finetune.regime: full → remove_heads; "
                                                        "finetune.remove: 0 → 2")
    before = {p: p.stat().st_mtime_ns for p in workspace.rglob("*") if p.is_file() and p.suffix != ".lock"}
    bert_nli.main(options(*words))
    assert "bert_nli_remove_heads-" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(ledger.read()) == 5


def test_the_report_counts_as_by_hand():
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    text = report(labels, predicted, LABELS)
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    assert lines["contradiction"] == ["0.6667", "0.6667", "0.6667", "3"]
    assert lines["entailment"] == ["0.6667", "1.0000", "0.8000", "2"]
    assert lines["neutral"] == ["0.0000", "0.0000", "0.0000", "1"]
    assert "[[2 1 0]\n [0 2 0]\n [1 0 0]]" in text


def test_files_that_are_not_there_stop(tmp_path):
    with pytest.raises(InputError, match=r"absent\.csv"):
        bert_nli.run(options("--pairs", "absent.csv"), "full")
    path = write_pairs(tmp_path / "toy.csv", sentences(30))
    for words in (("--weights", str(tmp_path / "none")), ("--vocab", str(tmp_path / "none.txt"))):
        with pytest.raises(InputError, match="none"):
            bert_nli.run(options("--pairs", str(path), *words), "full")


def test_without_the_package_it_says_how_to_get_it(workspace, monkeypatch):
    path = write_pairs(workspace / "toy.csv", sentences(30))
    monkeypatch.setattr(bert_nli, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match="pip install transformers"):
        bert_nli.run(options("--pairs", str(path)), "full")


@needs_transformers
def test_a_regime_that_diverges_leaves_a_row(workspace):
    path = write_pairs(workspace / "toy.csv", sentences(30))
    with pytest.raises(DivergedError):
        bert_nli.run(options("--pairs", str(path), "--epochs", "2", "--vocab-size", "100", "--lr", "1e30"), "full")
    (row,) = ledger.read()
    assert (row["experiment"], row["status"], row["valid"]) == ("bert_nli", "failed", "")
    assert "not finite" in row["note"]
