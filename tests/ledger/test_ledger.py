"""The ledger: nothing is lost, nothing is silently mended, and the figures shown are the figures recorded."""

import argparse
import csv
import hashlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.apps import ledger as ledger_command
from src.base.errors import InputError, RunError, SettingError
from src.base.workspace import PROJECT_DIR
from src.experiments import get as named
from src.ledger import file as ledger
from src.ledger.groups import effect, groups
from src.ledger.kaggle import Submission
from src.ledger.plot import plot
from src.ledger.row import COLUMNS, changed, group, make_blend_row, make_row
from src.ledger.sync import sync
from src.ledger.table import BEGIN, END, table, write_into
from src.settings import parts
from src.settings.config import Experiment, Optim, Train, override, part
from src.settings.parts import Registered

NASTY = 'a "quote", a comma,\na second line; 語 é 🎙 |pipe|'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ablations.csv"


def row(name: str = "course", seed: int = 0, **cells) -> dict:
    digest = f"{name}{seed}".encode().hex().ljust(64, "0")
    return {"source": "ours", "stage": "train", "competition": "vowels", "run_id": f"vowels/{name}-0000000{seed}",
            "experiment": name, "group": name, "steps": 100, "folds": 5, "seeds": seed, "metric": "accuracy",
            "status": "ok", "digest": digest, **cells}


def test_two_processes_appending_at_once_lose_nothing(path):
    ledger.append(row(), path)
    code = ("import sys; from src.ledger import file as ledger\n"
            "for i in range(200): ledger.append({'source': 'ours', 'status': 'ok', 'note': f'{sys.argv[2]}\\n\"{i}\"'},"
            " sys.argv[1])")
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), name], cwd=PROJECT_DIR) for name in "ab"]
    num_scored = 0
    while any(process.poll() is None for process in running):  # and a third one rewrites the file meanwhile
        ledger.score(row()["run_id"], public=num_scored % 100 / 100, path=path, replace=True)
        num_scored += 1
    assert [process.returncode for process in running] == [0, 0]
    assert num_scored > 20
    notes = [item["note"] for item in ledger.read(path)[1:]]
    assert sorted(notes) == sorted(f'{name}\n"{i}"' for name in "ab" for i in range(200))
    for name in "ab":  # and in the order in which each process wrote them
        assert [note for note in notes if note[0] == name] == [f'{name}\n"{i}"' for i in range(200)]


def test_values_round_trip(path):
    ledger.append(row(note=NASTY, valid=np.float32(0.9837837), lr=3e-4, params=np.int64(4_123_456), seconds=61.26,
                      mean_norm=True, train=math.nan, scale=None, public=0.1, score_kind="local"), path)
    with path.open(newline="", encoding="utf-8") as file:  # read independently of the code under test
        header, cells = csv.reader(file)
    found = dict(zip(header, cells))
    assert tuple(header) == COLUMNS
    assert found["note"] == NASTY
    expected = {"valid": "0.983784", "lr": "0.0003", "params": "4123456", "seconds": "61.3", "mean_norm": "yes",
                "train": "", "scale": "", "public": "0.1"}
    assert {key: found[key] for key in expected} == expected
    assert ledger.read(path) == [found]


@pytest.mark.parametrize(("cells", "said"), [
    ({"vaild": 0.9}, "did you mean 'valid'"), ({"valid": 96.0}, "between 0 and 1"), ({"valid": "high"}, "not a number"),
    ({"status": "fine"}, "not one of ok"), ({"private": 0.9}, "score_kind"), ({"note": ["x"]}, "cannot hold a list"),
])
def test_a_row_that_does_not_fit_is_refused(path, cells, said):
    with pytest.raises(SettingError, match=said):
        ledger.append(row(**cells), path)
    assert not path.exists()


def edited(data: bytes, how: str) -> bytes:
    lines = data.split(b"\n")
    if how == "torn":
        return data[:-30]
    if how == "torn in a letter":
        return data.rstrip(b"\n")[: data.rindex("語".encode()) + 1]
    if how == "few fields":
        lines[2] = lines[2].rpartition(b",")[0]
    if how == "header":
        lines[0] = lines[0].replace(b"d_model", b"dmodel")
    if how == "open quote":
        lines[1] += b'"'
    if how == "blank line":
        lines.insert(2, b"")
    if how == "number":
        lines[2] = lines[2].replace(b"0.91", b"0,91")
    if how == "semicolons":
        return data.replace(b",", b";")
    if how == "carriage returns alone":
        return data.replace(b"\n", b"\r")
    if how == "other table":
        return b"Id,Category\na,b\n"
    if how == "conflict":
        lines.insert(2, b"<<<<<<< HEAD")
    if how == "latin-1":
        lines[1] = lines[1].replace(b"vowels", "voyelles é".encode("latin-1"))
    return b"\n".join(lines)


@pytest.mark.parametrize(("how", "line", "said"), [
    ("torn", 4, "torn"), ("torn in a letter", 4, "torn"), ("few fields", 3, "fields, not"), ("header", 1, "header"),
    ("open quote", 2, "quote is opened"), ("blank line", 3, "0 fields"), ("number", 3, "fields, not"),
    ("semicolons", 1, "save it with commas"), ("carriage returns alone", 1, "save it with LF"),
    ("other table", 1, "no column is called 'Id'"), ("conflict", 3, "1 fields"), ("latin-1", 2, "UTF-8"),
])
def test_a_torn_or_edited_ledger_is_named_and_left_alone(path, how, line, said):
    for seed in range(3):
        ledger.append(row(seed=seed, valid=0.91, note="" if seed < 2 else "語" * 20), path)
    broken = edited(path.read_bytes(), how)
    path.write_bytes(broken)
    for use in (lambda: ledger.append(row(seed=9), path), lambda: ledger.read(path),
                lambda: ledger.score("vowels/", public=0.5, path=path)):
        with pytest.raises(InputError, match=rf"ablations\.csv, line {line}: .*{said}"):
            use()
    assert path.read_bytes() == broken


def test_a_torn_line_is_mended_as_its_message_says(path):
    ledger.append(row(seed=0), path)
    whole = path.read_bytes()
    ledger.append(row(seed=1, note="a note that the kill cuts"), path)
    torn = path.read_bytes()[:-40]
    path.write_bytes(torn)
    with pytest.raises(InputError, match=f"bytes {len(whole)} to {len(torn)} .*again, appends") as caught:
        ledger.append(row(seed=2), path)
    command = str(caught.value).split("`")[1]
    assert command == f"truncate -s {len(whole)} {path}"
    subprocess.run(command.split(), check=True)
    assert path.read_bytes() == whole
    again = row(seed=1) | {"date": "2026-01-01T00:00:00Z"}
    assert not ledger.contains(again["digest"], again["date"], path)  # so that the run appends its row again
    ledger.append(again, path)
    assert ledger.contains(again["digest"], again["date"], path)
    assert not ledger.contains(again["digest"], "2020-01-01T00:00:00Z", path), "a rerun is another row"


def test_a_full_disk_leaves_the_ledger_as_it_was(path, monkeypatch):
    ledger.append(row(), path)
    before = path.read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:50]))
    with pytest.raises(RunError, match="could not be written"):
        ledger.append(row(seed=1), path)
    assert path.read_bytes() == before


def test_a_failed_run_is_not_a_finished_one(path):
    failed = row(status="failed") | {"date": "2026-01-01T00:00:00Z"}
    ledger.append(failed, path)
    assert not ledger.contains(failed["digest"], failed["date"], path)


def test_score_changes_only_its_cells(path):
    for name in ("course", "conformer"):
        for seed in range(2):
            ledger.append(row(name, seed, note=NASTY), path)
    before = path.read_bytes()
    rows = ledger.read(path)
    target = rows[2]["run_id"]
    ledger.score(target, public=0.8715, private=0.87325, path=path)
    after = ledger.read(path)
    assert after[2] == {**rows[2], "public": "0.8715", "private": "0.87325", "score_kind": "kaggle"}
    assert after[:2] + after[3:] == rows[:2] + rows[3:]
    unscored = path.read_bytes().replace(b",0.8715,0.87325,kaggle,", b",,,,")
    assert unscored == before
    with pytest.raises(SettingError, match=r"several runs start with.*course.*course"):
        ledger.score("vowels/course", public=0.5, path=path)
    with pytest.raises(SettingError, match="no finished run starts with 'vowels/confromer'"):
        ledger.score("vowels/confromer", public=0.5, path=path)
    with pytest.raises(SettingError, match=r"0\.8715, not 0\.5; `bash run\.sh ledger score .* 0\.5 .*--replace`"):
        ledger.score(target, public=0.5, path=path)
    with pytest.raises(SettingError, match="has a kaggle score, not a local one"):
        ledger.score(target, public=0.8715, kind="local", path=path)
    assert ledger.read(path) == after
    ledger.score(target, public=0.87150, path=path)  # an equal score is no conflict
    assert ledger.score(target, public=0.5, kind="local", path=path, replace=True)["private"] == ""


def test_accuracies_under_degraded_conditions_change_only_their_cells(path):
    for seed in (0, 1):
        ledger.append(row(seed=seed, valid=0.9, note=NASTY), path)
    before = ledger.read(path)
    ledger.describe_shift("vowels/course-00000001", 0.7125, "clean 0.9000, noise 0.5250", path)
    after = ledger.read(path)
    assert after[0] == before[0]
    assert after[1] == before[1] | {"shifted": "0.7125", "conditions": "clean 0.9000, noise 0.5250"}
    with pytest.raises(SettingError, match="between 0 and 1"):
        ledger.describe_shift("vowels/course-00000001", 71.25, "", path)


def test_a_blend_has_a_row_of_its_own_that_no_mean_takes_in(path):
    ledger.append(row(valid=0.9), path)
    ledger.append(make_blend_row(
        {"run_id": "vowels/ensemble-12345678", "digest": "ab" * 32,
         "finished": "2026-11-01T10:00:00Z", "params": 30, "valid": 0.95, "seconds": 3.0,
         "members": {"vowels/course-00000000": 0.75, "vowels/other-00000000": 0.25},
         "test_classes": {"dispersion": 0.3, "num_changed": 5}},
        competition="vowels", command="bash run.sh ensemble a b"), path)
    made = ledger.read(path)[-1]
    assert (made["stage"], made["valid"], made["command"]) == ("ensemble", "0.95", "bash run.sh ensemble a b")
    assert made["changed"] == "0.75 of course-00000000 + 0.25 of other-00000000"
    assert made["note"] == "accuracy of cross-fitted weights; test matched to even classes"
    assert [len(item.rows) for item in groups(ledger.read(path))] == [1, 1]
    assert ledger.score("vowels/ensemble-12345678", public=0.9, path=path)["public"] == "0.9"


def test_sync_fills_and_reports(path, monkeypatch, capsys):
    scored, pending, other, wrong = (row(name) for name in ("scored", "pending", "scored-more", "wrong"))
    other["run_id"] = f"big/{scored['run_id']}-b"  # contains the first one's id
    for item in (scored, pending, other, wrong):
        ledger.append(item, path)
    ledger.score(wrong["run_id"], public=0.2, path=path)
    listed = [
        Submission("s.csv", "2026-11-20 10:00", f"not{scored['run_id']}-ours", "complete", 0.9, 0.9),
        Submission("s.csv", "2026-11-20 09:00", f"{scored['run_id']} blend", "complete", 0.8812, 0.879),
        Submission("s.csv", "2026-11-20 08:00", scored["run_id"], "complete", 0.1, 0.1),  # an older one does not count
        Submission("s.csv", "2026-11-20 07:00", pending["run_id"], "pending", None, None),
        Submission("s.csv", "2026-11-20 06:00", other["run_id"], "complete", 0.7, None),
        Submission("s.csv", "2026-11-20 05:00", wrong["run_id"], "complete", 0.3, 0.3),
        Submission("hand.csv", "2026-11-20 04:00", "by hand", "complete", 0.6, 0.6),
    ]
    monkeypatch.setattr("src.ledger.kaggle.submissions", lambda competition: listed)
    assert sync("some-competition", path) == 2
    said = capsys.readouterr().out
    assert f"filled: 2\n  {scored['run_id']}: public 0.8812, private 0.879\n  {other['run_id']}: public 0.7" in said
    assert f"no score yet: 1\n  {pending['run_id']}" in said
    assert "not filled: 1\n  ledger: " + wrong["run_id"] + " has the kaggle public score 0.2, not 0.3" in said
    assert "not from a run in this ledger: 2\n  s.csv of 2026-11-20 10:00 ('not" in said
    assert "\n  hand.csv of 2026-11-20 04:00 ('by hand')" in said
    found = {item["run_id"]: (item["public"], item["private"]) for item in ledger.read(path)}
    assert found == {scored["run_id"]: ("0.8812", "0.879"), pending["run_id"]: ("", ""), other["run_id"]: ("0.7", ""),
                     wrong["run_id"]: ("0.2", "")}
    assert sync("some-competition", path) == 0


VALID = [0.61, 0.64, 0.66]


def fill(path: Path) -> None:
    """Write three seeds of a base, a run again, a child, a failure, a trial, and the same names as published."""
    ledger.append(row(seed=7, source="published", valid=0.99, public=0.98, score_kind="published", seconds=30.0), path)
    ledger.append(row(seed=2, valid=0.01), path)  # run again below: its newest row counts
    for seed, valid in enumerate(VALID):
        ledger.append(row(seed=seed, valid=valid, public=valid - 0.1, score_kind="local", seconds=60.0,
                          params=2e6), path)
    ledger.append(row("better", valid=0.80, parent="course", parent_group="course", changed="head: mlp → linear",
                      seconds=90.0, params=1e6), path)
    ledger.append(row("same", valid=0.65, parent="course", parent_group="course", changed=NASTY), path)
    ledger.append(row("longer", valid=0.9, parent="course", parent_group="course", steps=999), path)
    ledger.append(row(seed=4, status="failed"), path)
    ledger.append(row("trial", stage="tune", valid=0.7, seconds=9.0), path)


def test_table_shows_means_over_seeds(path):
    fill(path)
    every = groups(ledger.read(path))
    base = next(item for item in every if item.last["experiment"] == "course" and item.last["source"] == "ours")
    assert base.mean("valid") == pytest.approx(np.mean(VALID))
    assert base.deviation("valid") == pytest.approx(np.std(VALID, ddof=1))
    better = next(item for item in every if item.last["experiment"] == "better")
    difference, noise = effect(better, every)
    assert difference == pytest.approx(0.80 - np.mean(VALID))
    assert noise == pytest.approx(2 * np.std(VALID, ddof=1) * np.sqrt(1 / 3 + 1))
    shown = table(ledger.read(path), "text")
    lines = {line.split()[0]: line for line in reversed(shown.splitlines()) if line}  # ours stand before others'
    assert f"{np.mean(VALID):.4f} ± {np.std(VALID, ddof=1):.4f}" in lines["course"]
    assert f"{np.mean(VALID) - 0.1:.4f} ± " in lines["course"]
    assert " 3  " in lines["course"]
    assert "+0.1633 " in lines["better"]
    assert "no change" not in lines["better"]
    assert "+0.0133 (no change)" in lines["same"]
    assert "+" not in lines["longer"]  # not comparable: other steps
    assert "the best, vowels/trial" in shown
    assert "9 runs of ours, 1 failed" in shown
    assert [" ours " in line for line in shown.splitlines() if line.startswith("course")] == [True, False]
    assert shown.count("0.9900") == 1


def test_a_search_s_trial_stands_beside_a_run_of_the_same_settings_and_takes_no_score(path):
    ledger.append(row(valid=0.8), path)
    ledger.append(row(seed=1, valid=0.6), path)
    ledger.append(row(stage="tune", valid=0.9), path)
    ledger.append(row("other", valid=0.85, parent_group="course"), path)
    found = groups(ledger.read(path))
    assert [(len(group.rows), group.mean("valid")) for group in found] == [(2, pytest.approx(0.7)), (1, 0.9), (1, 0.85)]
    assert effect(found[2], found[::-1])[0] == pytest.approx(0.15), "the parent is the run, not the trial"
    ledger.score("course-00000000", public=0.5, path=path)
    assert [item["public"] for item in ledger.read(path)] == ["0.5", "", "", ""]


def test_a_run_done_again_keeps_the_scores_it_had(path):
    ledger.append(row(valid=0.8, public=0.7, score_kind="kaggle", shifted=0.6, conditions="x"), path)
    ledger.append(row(valid=0.8), path)
    ledger.append(row(seed=1, valid=0.9, public=0.5, score_kind="kaggle"), path)
    ledger.append(row(seed=1, valid=0.9, digest="of other code"), path)
    (found,) = groups(ledger.read(path))
    assert [item["public"] for item in found.rows] == ["0.7", ""]
    assert [item["shifted"] for item in found.rows] == ["0.6", ""]


def test_a_row_that_two_processes_want_to_write_is_written_once(path):
    for _ in range(2):
        ledger.append(row(date="2026-11-01T10:00:00Z"), path, once=True)
    ledger.append(row(date="2026-11-01T10:00:01Z", status="failed"), path, once=True)
    assert len(ledger.read(path)) == 2


def test_a_run_done_again_with_the_same_figures_adds_no_row(path):
    ledger.append(row(date="2026-11-01T10:00:00Z", valid=0.75, seconds=10), path, once=True)
    before = path.read_bytes()
    ledger.append(row(date="2026-11-02T10:00:00Z", valid=0.75, seconds=12), path, once=True)
    assert path.read_bytes() == before
    ledger.append(row(date="2026-11-02T10:00:00Z", valid=0.76, seconds=12), path, once=True)
    ledger.append(row(date="2026-11-03T10:00:00Z", digest="of other data", valid=0.76), path, once=True)
    assert len(ledger.read(path)) == 3


def test_of_many_changes_those_with_a_column_are_left_out(path):
    few = "encoder.d_model: 80 → 256; pooling: mean → max"
    ledger.append(row("few", changed=few), path)
    more = "; optim.lr: 0.001 → 0.002; head: mlp → linear; train.mixup: 0 → 0.2"
    ledger.append(row("many", changed=few + more), path)
    lines = table(ledger.read(path), "text").splitlines()
    assert any(few in line for line in lines)
    many = next(line for line in lines if line.startswith("many"))
    assert "optim.lr: 0.001 → 0.002; train.mixup: 0 → 0.2" in many
    assert "pooling" not in many
    assert ledger.read(path)[-1]["changed"].count(";") == 4


def test_local_and_kaggle_scores_are_never_averaged_together(path):
    for seed, (kind, public) in enumerate((("kaggle", 0.5), ("local", 0.9), ("kaggle", 0.7))):
        ledger.append(row(seed=seed, public=public, score_kind=kind), path)
    found, = groups(ledger.read(path))
    assert (found.score_kind, found.mean("public")) == ("kaggle", pytest.approx(0.6))


def test_published_rows_never_enter_our_means(path):
    for seed, valid in enumerate(VALID):
        ledger.append(row(seed=seed, valid=valid), path)
    before = table(ledger.read(path), "text")
    for seed in (1, 1):  # the same name, group and seed as ours
        ledger.append(row(seed=seed, source="published", valid=0.99), path)
    ledger.append(row(seed=2, source="elsewhere", valid=0.88), path)
    ledger.append(row(seed=3, source="elsewhere", valid=0.88), path)
    shown = table(ledger.read(path), "text")
    assert f"{np.mean(VALID):.4f} ± {np.std(VALID, ddof=1):.4f}" in before
    assert f"{np.mean(VALID):.4f} ± {np.std(VALID, ddof=1):.4f}" in shown
    assert [shown.count(said) for said in ("0.9900", "0.8800", "±")] == [2, 2, before.count("±")]  # nor make a mean
    shown = shown.partition("\n\n")[2]
    assert shown.index(" ours ") < shown.index(" elsewhere ") < shown.index(" published ")


def test_readme_takes_the_table_between_its_markers(path, tmp_path):
    fill(path)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write_into(readme, ledger.read(path))
    once = readme.read_text(encoding="utf-8")
    assert once == f"before\n{BEGIN}\n{table(ledger.read(path))}{END}\nafter\n"
    bars = [line.replace("\\|", "").count("|") for line in table(ledger.read(path)).splitlines()
            if line.startswith("|")]
    assert bars[:5] == [bars[0]] * 5  # the header, its rule, and rows whose notes hold newlines and bars
    write_into(readme, ledger.read(path))
    assert readme.read_text(encoding="utf-8") == once
    readme.write_text("no markers\n")
    with pytest.raises(InputError, match="put one line <!-- ledger:begin -->"):
        write_into(readme, ledger.read(path))
    assert readme.read_text() == "no markers\n"


def test_plot_draws_both_axes(path, tmp_path):
    from matplotlib import image

    fill(path)
    for against in ("seconds", "params"):
        plot(tmp_path / "picture.png", ledger.read(path), against)
        pixels = image.imread(tmp_path / "picture.png")
        blue = np.all(np.abs(pixels[..., :3] * 255 - (0x1F, 0x5F, 0xA8)) < 3, axis=-1).sum()
        orange = np.all(np.abs(pixels[..., :3] * 255 - (0xC4, 0x56, 0x1B)) < 3, axis=-1).sum()
        assert blue > 200
        assert (orange > 200) == (against == "seconds")  # published rows give no parameter counts
    with pytest.raises(InputError, match="no finished run has params"):
        plot(tmp_path / "none.png", ledger.read(path)[:2], "params")


@pytest.fixture
def experiments(monkeypatch) -> tuple[Experiment, Experiment]:
    """A base and its child, of parts that this test registers."""
    registered = {
        "encoder": {"small": {"d_model": 80, "num_heads": 2, "dropout": 0.1}, "large": {"d_model": 256, "num_heads": 4,
                                                                                      "kernel_size": 31}},
        "pooling": {"mean": {}}, "head": {"am_softmax": {"scale": 30.0, "margin": 0.35}},
        "augment": {"noise": {"snr_db": (5.0, 20.0), "chance": 0.5}},
    }
    monkeypatch.setattr(parts, "catalogue", lambda slot: {
        name: Registered("", "", settings, None, (), None) for name, settings in registered[slot].items()})
    base = Experiment("base", part("small"), part("mean"), part("am_softmax"), optim=Optim(lr=1e-3),
                      train=Train(steps=100, device="cpu", threads=2))
    child = replace(base, name="child", parent="base", encoder=part("large", d_model=80, num_heads=8, kernel_size=15),
                    augment=(part("noise", chance=0.6),), optim=Optim(lr=3e-4),
                    train=Train(steps=100, device="cuda", threads=1), seed=3)
    return parts.complete_experiment(base), parts.complete_experiment(child)


def test_a_row_says_what_changed(experiments, path):
    base, child = experiments
    assert changed(child, base) == ("encoder: small → large; encoder.num_heads: 2 → 8; encoder.kernel_size: none → 15; "
                                    "augment.noise: off → on; augment.noise.chance: none → 0.6; "
                                    "optim.lr: 0.001 → 0.0003")
    assert changed(base, child).endswith("augment.noise: on → off")
    assert changed(base, replace(base, seed=5)) == ""
    assert group(base) == group(replace(base, seed=5, name="other", train=replace(base.train, device="cuda")))
    assert group(base) != group(replace(base, optim=Optim(lr=2e-3)))
    made = make_row(child, competition="vowels", run_id="vowels/child-1234abcd", digest="1234abcd" * 8, parent=base,
                    result={"run_id": "x", "best_steps": [5], "params": 123, "valid": 0.9, "seconds": 3.14159},
                    command="bash run.sh --experiment child")
    ledger.append(made, path)
    found = ledger.read(path)[0]
    expected = {"experiment": "child", "parent": "base", "encoder": "large", "d_model": "80", "heads": "8",
                "dropout": "", "scale": "30", "margin": "0.35", "augment": "noise", "batch_norm": "no", "lr": "0.0003",
                "steps": "100", "folds": "5", "seeds": "3", "device": "cuda", "valid": "0.9", "seconds": "3.1",
                "source": "ours"}
    assert {key: found[key] for key in expected} == expected
    assert found["parent_group"] == group(base)
    failed = make_row(child, competition="vowels", run_id="r", digest="d", result={"status": "failed", "note": "a NaN"})
    assert (failed["status"], failed["note"], failed["parent"]) == ("failed", "a NaN", "base")


def test_other_weights_at_the_same_path_are_another_question(tmp_path):
    file = tmp_path / "encoder.pt"
    plain = parts.complete_experiment(named("wav2vec2"))
    said = set()
    for content in (b"first", b"second", b"first"):
        file.write_bytes(content)
        started = override(plain, {"encoder.weights": str(file)})
        said.add((group(started), changed(started, plain)))
    assert len(said) == 2
    assert {hashlib.sha256(hashlib.sha256(content).digest()).hexdigest()[:8] for content in (b"first", b"second")} == {
        text.split("(")[1].rstrip(")") for _, text in said}
    assert group(plain) not in {key for key, _ in said}
    file.unlink()
    with pytest.raises(InputError, match=r"encoder\.pt"):
        group(started)


def test_the_published_rows_are_those_of_the_publication():
    published = [item for item in ledger.read(PROJECT_DIR / "ablations.csv") if item["source"] == "published"]
    figures = {seed: [(item["valid"], item["public"], item["private"]) for item in published
                      if f"(seed {seed})" in item["note"]] for seed in ("001", "002", "003", "004")}
    assert sum(map(len, figures.values())) == len(published), "each names its seed"
    assert figures["001"] == [("0.66", "", ""), ("0.70", "", "")]
    assert figures["002"] == [("0.78", "0.77", ""), ("", "0.758951", ""), ("0.790737", "0.730179", ""),
                              ("0.646205", "0.617647", ""), ("", "0.749361", ""), ("", "0.712276", "")]
    assert figures["003"] == [("0.41", "", ""), ("0.179", "", "")]
    assert figures["004"] == [
        ("0.9306", "0.84325", "0.84200"), ("0.9460", "0.83675", "0.83550"), ("0.9140", "0.86250", "0.86050"),
        ("0.9325", "0.83850", "0.83325"), ("0.9085", "0.86400", "0.86100"), ("0.9384", "0.87150", "0.87325"),
        ("0.9433", "0.88125", "0.87900")]
    assert not any(item["run_id"] or item["digest"] or item["seeds"] for item in published)


def test_the_command_line(path, monkeypatch, capsys):
    monkeypatch.setenv("SPEAKER_ID_WORKSPACE", str(path.parent))
    fill(path)
    parser = argparse.ArgumentParser()
    ledger_command.add_arguments(parser)
    ledger_command.main(parser.parse_args(["score", "vowels/better", "--public", "0.7"]))
    assert "public 0.7, private - (kaggle)" in capsys.readouterr().out
    ledger_command.main(parser.parse_args(["table"]))
    assert "better" in capsys.readouterr().out
    ledger_command.main(parser.parse_args(["plot", "--out", str(path.with_suffix(".png"))]))
    assert path.with_suffix(".png").stat().st_size > 10_000


def test_help_imports_nothing_heavy():
    code = ("import sys, src.ledger.file, src.ledger.table, src.ledger.kaggle\n"
            "print(*{'torch', 'numpy', 'pandas', 'matplotlib', 'sklearn'} & {*sys.modules})")
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_DIR, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_competition_that_no_row_is_of_is_named(path, monkeypatch, workspace):
    ledger.append(row(), workspace / "ablations.csv")
    with pytest.raises(SettingError, match="no row of 'vowel'; did you mean 'vowels'"):
        ledger_command.main(argparse.Namespace(action="table", competition="vowel", write=None, format="text"))
