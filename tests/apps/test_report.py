"""The report of runs of every kind: its figures against the files', its escapes, what it says is missing, a browser."""

import argparse
import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from src.apps.report import command as report
from src.apps.report import embedding_map
from src.apps.report import evidence as run_evidence
from src.apps.report import page as report_page
from src.apps.report import plots as report_plots
from src.apps.report import sections as report_sections
from src.base.errors import InputError, SettingError
from src.base.files import digest, read_json, write_json
from src.base.workspace import runs_dir
from src.experiments import BASE
from src.ledger import file as ledger
from src.ledger.row import make_row
from src.runs.folder import Run
from src.runs.logits import save_logits
from src.runs.plan import make_plan
from src.settings.auto import DataSummary
from src.settings.config import override, part
from src.store.store import Store

NASTY = ("<script>alert(1)</script>", 'x" onload="alert(2)', "$\\frac{$ & 李 \uffff")
TINY = override(BASE, {"encoder": part("transformer", d_model=8, num_layers=1, num_heads=1, feed_forward_dim=8),
                       "train.steps": 4, "train.batch_size": 4, "train.crop_frames": 8, "train.valid_every": 2,
                       "train.threads": 1, "folds": 2})
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Reading(HTMLParser):
    """A page as a browser reads it: tags with their attributes, and text by tag."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.cells, self.text, self.is_in_cell = [], [], [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag in ("td", "b"):
            self.cells.append("")
            self.is_in_cell = True

    def handle_endtag(self, tag):
        self.is_in_cell = False

    def handle_data(self, data):
        self.text.append(data)
        if self.is_in_cell:
            self.cells[-1] += data


def make_store(workspace, speakers, num_utterances, lengths=(5, 40)):
    """Write a store of competition "toy" by hand: cepstra of dimension 3, every utterance its speaker's own mean."""
    rng = np.random.default_rng(0)
    labels = np.arange(num_utterances) % len(speakers)
    num_frames = rng.integers(*lengths, num_utterances)
    frames = rng.standard_normal((num_frames.sum(), 3)) + np.repeat(np.sin(labels[:, None] * [1, 2, 3]), num_frames, 0)
    folder = workspace / "data" / "cache" / "toy" / "making"
    folder.mkdir(parents=True)
    frames.astype(np.float32).tofile(folder / "frames.bin")
    offsets = np.cumsum(num_frames) - num_frames
    with open(folder / "table.csv", "w", encoding="utf-8") as file:
        file.write("utt_id,split,speaker,group,text,offset,num_frames\n")
        for i in range(num_utterances):
            name = '"' + speakers[labels[i]].replace('"', '""') + '"'
            file.write(f"<i>u{i}</i>,train,{name},,,{offsets[i]},{num_frames[i]}\n")
    named = digest([list(speakers), num_utterances])
    write_json(folder / "meta.json", {
        "digest": named, "version": 1, "competition": "toy", "kind": "cepstra", "dim": 3, "num_bytes": frames.size * 4,
        "num_utterances": num_utterances, "num_frames": int(num_frames.sum()), "speakers": list(speakers),
        "settings": {"kind": "cepstra", "dim": 3},
        "summary": dataclasses.asdict(DataSummary.of("cepstra", labels, num_frames, 1))})
    return Store.open(folder.rename(folder.with_name(f"cepstra-{named[:8]}")))


def make_run(store, experiment=TINY, folds_done=None, right=0.8, with_model=True, num_valid=None):
    """Write a run by hand as train does, its logits drawn so that about that share of them is right.

    num_valid: held-out utterances kept of each fold.
    """
    from src.model.checkpoint import save_model
    from src.model.speaker_model import SpeakerModel

    plan = make_plan("toy", store.directory, experiment)
    plan.run.begin(plan.experiment, plan.digest, store.digest)
    rng, results = np.random.default_rng(1), []
    folds = store.folds(plan.experiment.folds)
    for k, rows in enumerate(valid_rows[:num_valid] for _, valid_rows in folds[:folds_done]):
        folder = plan.directory / f"fold_{k}"
        folder.mkdir()
        columns = "step,lr,loss,accuracy" + (",valid_metric,valid_loss" if len(rows) else "")
        values = ["2,0.001,2.5,0.3,0.4,2", "4,0.0001,1.5,0.6,0.7,1"]
        lines = [line if len(rows) else ",".join(line.split(",")[:4]) for line in values]
        (folder / "log.csv").write_text("\n".join([columns, *lines]) + "\n")
        logits = rng.standard_normal((len(rows), len(store.speakers)))
        heard = np.where(rng.random(len(rows)) < right, store.labels[rows], (store.labels[rows] + 1)
                         % len(store.speakers))
        logits[np.arange(len(rows)), heard] += 5
        save_logits(folder / "valid.npz", rows, logits)
        if with_model:
            model = SpeakerModel(plan.experiment, store.kind, store.dim, len(store.speakers))
            save_model(folder / "model.pt", model, plan.experiment, store.kind, store.dim, store.speakers)
        results.append({"params": 1234, "train": 0.6, "best_step": 4, "seconds": 1.5, "num_valid": len(rows),
                        "num_right": int((logits.argmax(1) == store.labels[rows]).sum()) if len(rows) else 0})
        write_json(folder / "result.json", results[-1])
    if folds_done is None:
        num_valid = sum(r["num_valid"] for r in results)
        write_json(plan.directory / "result.json", {
            "run_id": plan.run_id, "digest": plan.digest, "store": store.digest, "params": 1234, "seconds": 3.0,
            "train": 0.6, "valid": sum(r["num_right"] for r in results) / num_valid if num_valid else None,
            "finished": "2026-01-01T00:00:00Z"})
    return plan


def written(plan, **options):
    """Report a run as the command does, and return the page as read and as text."""
    report.main(argparse.Namespace(run=plan.run_id, **{"out": None, "tensorboard": None, **options}))
    html = ((options.get("out") or plan.directory / "report") / "index.html").read_text(encoding="utf-8")
    return Reading(html), html


def missing(html):
    return re.findall(r'<p class="missing">(.*?)</p>', html)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two folds that train itself wrote, with nasty names, its ledger and its conditions: plan and page."""
    from src.training.run import run

    workspace = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEAKER_ID_WORKSPACE", str(workspace))
        store = make_store(workspace, NASTY, 61)  # of unequal classes
        plan = make_plan("toy", store.directory, TINY)
        result = run(plan, store)
        ledger.append(make_row(plan.experiment, competition="toy", run_id=plan.run_id, digest=plan.digest,
                               result=result, parent=BASE, command="bash run.sh --set 'x=<b>'"))
        write_json(plan.directory / "conditions.json", {
            "version": 1, "clean": {"num_right": 9, "num_valid": 10}, "<u>noise": {"num_right": 3, "num_valid": 10},
            "shifted": 0.4321})
        page, html = written(plan)
    return plan, workspace, store, page, html


def test_the_page_shows_what_the_run_measured(trained):
    from sklearn.metrics import classification_report

    plan, workspace, store, page, html = trained
    directory = workspace / "data" / "runs" / plan.run_id
    folds = [np.load(directory / f"fold_{k}" / "valid.npz") for k in range(2)]
    rows, logits = (np.concatenate([fold[name] for fold in folds]) for name in ("rows", "logits"))
    expected = classification_report(store.labels[rows], logits.argmax(1), labels=range(3), output_dict=True,
                                     zero_division=0)
    valid = read_json(directory / "result.json")["valid"]
    assert expected["accuracy"] == pytest.approx(valid)
    assert f"{valid:.4f}" in page.cells[0]
    for name, key in ((NASTY[0], "0"), (NASTY[1], "1"), ("macro average", "macro avg"),
                      ("weighted average", "weighted avg")):
        figures = [f"{expected[key][figure]:.4f}" for figure in ("precision", "recall", "f1-score")]
        at = [i for i, cell in enumerate(page.cells) if cell == name and page.cells[i + 1 : i + 4] == figures]
        assert at, (name, figures)
        assert page.cells[at[0] + 4] == str(int(expected[key]["support"]))
    for text in ("0.4321", "bash run.sh --set 'x=<b>'", "encoder.d_model", "80 → 8", "0.3000"):
        assert text in "".join(page.text), text
    assert missing(html) == []


def test_names_are_escaped_and_the_page_asks_for_nothing(trained):
    *_, page, html = trained
    assert page.tags.count("script") == html.lower().count("<script") == 1
    assert not {"i", "u", "img", "iframe", "link", "object", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    for name, value in page.attributes:
        if name in ("href", "src", "xlink:href"):
            assert value.startswith(("#", "data:image/png")), value
    assert "url(http" not in html
    assert "@import" not in html
    for name in NASTY[:2]:
        assert name in page.cells
    assert any(re.fullmatch(r"<i>u\d+</i>", cell) for cell in page.cells)


def test_pictures_refer_to_their_own_ids_and_take_the_pages_colours(trained):
    plan, workspace, _, page, html = trained
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:url\(|href=")#([^")]+)', html)
    assert targets
    assert set(targets) <= set(ids)
    svg = html[html.index("<svg") : html.rindex("</svg>")]
    assert "var(--blue)" in svg
    for colour in ("#1c2733", "#1f6fb4"):
        assert colour not in svg.lower()
    names = {path.stem for path in (workspace / "data" / "runs" / plan.run_id / "report").glob("*.png")}
    assert names == {"accuracy", "loss", "learning_rate", "conditions", "length", "confusion", "reliability",
                     "embeddings"}
    assert page.tags.count("svg") == len(names)
    for path in (workspace / "data" / "runs" / plan.run_id / "report").glob("*.png"):
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium")
def test_a_browser_shows_the_page_sorts_its_tables_and_runs_nothing_of_the_names(trained, tmp_path, monkeypatch):
    plan, workspace, *_ = trained
    monkeypatch.setenv("SPEAKER_ID_WORKSPACE", str(workspace))
    monkeypatch.setattr(report_page, "SCRIPT", report_page.SCRIPT + """
        const heading = [...document.querySelectorAll("#speakers th")].find(th => th.textContent === "support");
        heading.querySelector("button").click(); heading.querySelector("button").click();
        document.body.dataset.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    """)
    written(plan, out=tmp_path / "page")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=390,900"]
    done = subprocess.run([CHROMIUM, *flags, "--dump-dom", f"file://{tmp_path / 'page' / 'index.html'}"], text=True,
                          capture_output=True, timeout=300, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr  # an error, an alert or a refusal of the page's policy
    page = Reading(done.stdout)
    assert ("aria-sort", "descending") in page.attributes
    assert ("data-overflow", "0") in page.attributes  # no sideways scrolling on a telephone
    assert page.tags.count("script") == 1
    table = done.stdout[done.stdout.index('id="speakers"') : done.stdout.index('id="calibration"')]
    support = [int(number) for number in re.findall(r"<td>(\d+)</td></tr>", table)]
    assert support == [*sorted(support[:3], reverse=True), 61, 61]
    assert support[0] > support[2]


def test_a_run_on_all_utterances_says_what_is_missing(workspace):
    store = make_store(workspace, ("a", "b"), 12)
    page, html = written(make_run(store, override(TINY, {"folds": "all"})))
    assert sum("none held out" in text for text in missing(html)) == 6
    assert page.tags.count("svg") == 3  # the curves of training alone
    assert "accuracy, held out" not in html
    assert "0.6000" in html


@pytest.mark.parametrize(("folds_done", "shown"), [(0, False), (1, True)])
def test_an_unfinished_run_shows_the_folds_that_are_done(workspace, folds_done, shown):
    store = make_store(workspace, ("a", "b"), 40)
    plan = make_run(store, folds_done=folds_done)
    _, html = written(plan)
    assert f"not finished: {folds_done} of 2 folds" in html
    assert ("accuracy, held out" in html) == shown
    assert any("No fold is finished yet" in text for text in missing(html)) != shown
    if shown:
        assert "of 20 whole utterances" in html


def test_a_run_whose_store_or_model_is_gone_shows_the_rest(workspace):
    store = make_store(workspace, ("a", "b"), 40)
    plan = make_run(store, override(TINY, {"folds": 1}), with_model=False)
    page, html = written(plan)
    assert any("model.pt is gone" in text for text in missing(html))
    assert "of 8 whole utterances" in html
    shutil.rmtree(store.directory)
    page, html = written(plan)
    assert sum("store that the run was made from is not here" in text for text in missing(html)) == 5
    assert page.tags.count("svg") == 3


def test_logits_of_another_store_are_refused(workspace):
    plan = make_run(make_store(workspace, ("a", "b"), 40))
    save_logits(plan.directory / "fold_1" / "valid.npz", np.arange(3), np.zeros((3, 5)))
    with pytest.raises((InputError, ValueError)):
        run_evidence.gather(Run(plan.directory))
    save_logits(plan.directory / "fold_1" / "valid.npz", np.array([40]), np.zeros((1, 2)))
    with pytest.raises(InputError, match="not of this store"):
        run_evidence.gather(Run(plan.directory))


def test_a_run_that_is_never_wrong_has_a_report(workspace):
    store = make_store(workspace, [f"s{i}" for i in range(40)], 160)
    _, html = written(make_run(store, right=1.0, with_model=False))
    assert "Every held-out utterance is heard right." in html


def test_five_thousand_speakers_make_a_page_of_all_of_them(workspace):
    store = make_store(workspace, [f"speaker {i:04}" for i in range(5000)], 10000, lengths=(2, 4))
    plan = make_run(store, override(TINY, {"folds": 2}), folds_done=1, right=0.7, with_model=False,
                    num_valid=400)
    page, html = written(plan)
    assert sum(cell.startswith("speaker ") and len(cell) == 12 for cell in page.cells) >= 5000
    assert "4,600 without held-out utterances" in html
    assert len(html) < 3e6


def test_a_blend_is_refused_with_its_members(workspace):
    blend = runs_dir("toy") / "ensemble-12345678"
    write_json(blend / "result.json", {"members": {"toy/a-1": 0.5, "toy/b-2": 0.5}})
    with pytest.raises(SettingError, match="toy/a-1, toy/b-2"):
        report.main(argparse.Namespace(run="toy/ensemble", out=None, tensorboard=None))


def test_what_another_stage_made_is_refused(workspace):
    plan = make_run(make_store(workspace, ("a", "b"), 40), with_model=False)
    write_json(plan.directory / "fold_1" / "result.json", {"errors": 7, "seconds": 1.0})
    with pytest.raises(SettingError, match="tells classes apart"):
        run_evidence.gather(Run(plan.directory))


def test_neighbours_are_the_five_above_and_below_and_the_parent(workspace):
    store = make_store(workspace, ("a", "b"), 40)
    plan = make_run(store, with_model=False)

    def row(seed, valid, parent=None):
        experiment = override(plan.experiment, {"seed": seed, "optim.lr": 1e-3 + seed * 1e-5, "name": f"e{seed}"})
        made = make_row(experiment, competition="toy", run_id=f"toy/e{seed}-{seed:08}", digest="", parent=parent,
                        result={"train": 1.0, "valid": valid, "seconds": 60.0, "params": 10})
        return experiment, made

    oldest, made = row(1, 0.99)
    ledger.append(made)
    for seed in range(2, 16):
        ledger.append(row(seed, seed / 20)[1])
    ledger.append({**row(30, 0.42, parent=oldest)[1], "run_id": plan.run_id})
    ledger.append({**row(31, 0.43)[1], "competition": "other"})
    ledger.append({**row(32, 0.43)[1], "status": "failed"})
    ledger.append({**row(33, 0.43)[1], "metric": "token error rate"})
    evidence = run_evidence.gather(Run(plan.directory))
    table = report_sections._neighbours(evidence).tables[0]
    assert [line[1] for line in table.rows] == ["e13", "e12", "e11", "e10", "e9", "e30", "e8", "e7", "e6", "e5", "e4",
                                                "e1 (parent)"]
    assert [line[0] for line in table.rows] == [*map(str, range(4, 15)), "parent"]
    assert table.marked == {5}


def test_embeddings_are_those_of_each_utterance_alone(workspace):
    import torch

    from src.model.checkpoint import load_model

    store = make_store(workspace, ("a", "b"), 12)
    plan = make_run(store, override(TINY, {"folds": "all"}))
    path = plan.directory / "fold_0" / "model.pt"
    rows = np.array([7, 3, 11, 0])
    found = embedding_map.embed(path, store.directory, rows)
    model, *_ = load_model(path)
    with torch.inference_mode():
        alone = [model.embed(*model.extract(store.utterances([row]).inputs, None))[0].numpy() for row in rows]
    np.testing.assert_allclose(found, np.stack(alone), atol=1e-4)


@pytest.mark.parametrize(("shape", "method"), [((4, 1), "principal components"), ((12, 6), "principal components"),
                                               ((40, 6), "t-SNE")])
def test_maps_are_two_dimensional_finite_and_the_same_again(shape, method):
    vectors = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    points, said = embedding_map.project(vectors)
    assert (points.shape, said) == ((shape[0], 2), method)
    assert np.isfinite(points).all()
    np.testing.assert_array_equal(points, embedding_map.project(vectors)[0])


def test_tensorboard_is_optional_and_says_so(trained, tmp_path, monkeypatch):
    plan, workspace, *_ = trained
    monkeypatch.setenv("SPEAKER_ID_WORKSPACE", str(workspace))
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingError, match="pip install tensorboard"):
        written(plan, out=tmp_path, tensorboard=tmp_path / "events")
    assert not list(tmp_path.iterdir())


def test_tensorboard_reads_the_curves(trained, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plan, workspace, *_ = trained
    monkeypatch.setenv("SPEAKER_ID_WORKSPACE", str(workspace))
    for _ in range(2):  # again, and not twice
        written(plan, out=tmp_path / "page", tensorboard=tmp_path / "events")
    for k in range(2):
        events = EventAccumulator(str(tmp_path / "events" / plan.run_id / f"fold_{k}"))
        events.Reload()
        log = run_evidence.gather(Run(workspace / "data" / "runs" / plan.run_id)).logs[k]
        for tag, column in (("accuracy/held_out", "valid_metric"), ("loss/training", "loss"), ("learning_rate", "lr")):
            assert [event.step for event in events.Scalars(tag)] == [2, 4]
            np.testing.assert_allclose([event.value for event in events.Scalars(tag)], log[column], rtol=1e-6)


def test_names_of_neighbours_on_the_map_do_not_lie_over_each_other():
    from matplotlib.figure import Figure

    axes = Figure(figsize=report_plots.TALL).add_subplot()
    report_plots._write_names(axes, [(f"speaker {k}", np.array([0.5, 0.5 + 0.01 * k])) for k in range(5)])
    extents = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(extents) for b in extents[:i])
