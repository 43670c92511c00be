"""A run as a page: what it is, how it learnt, what it gets wrong, how sure it is; and its neighbours in the ledger.

    python -m src report RUN [--out DIR] [--tensorboard DIR]

In: the files of a run (experiment.json, result.json, and each fold's log.csv, valid.npz and model.pt), its store, the
ledger, and conditions.json where `conditions` has left one. Out: index.html, which needs nothing else, and the pictures
as PNGs beside it. What a run does not have is said in its place: a run with folds=all has no held-out utterances, an
unfinished one only the folds that are done, one whose store is gone no labels.
"""

import argparse
import csv
import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src import ledger, metrics
from src.config import Experiment, flatten, from_json
from src.errors import InputError, SettingError
from src.files import atomic_open, read_json
from src.logits import read_logits
from src.plan import find_run
from src.report_page import Page, Section, Table, Tile, render
from src.status import num_folds, shown_bytes, shown_path, shown_time, store_of

if TYPE_CHECKING:
    from src.report_plots import Picture
    from src.store import Store

NUM_PAIRS, NUM_MISTAKES, NUM_NEIGHBOURS = 15, 15, 5
MAP_UTTERANCES, MAP_CLASSES, MAP_NAMES = 1000, 12, 8  # names: all of so few classes, else of the most confused
HOP_S = 0.01  # of features that come as log-mels without saying so: the course's
NO_HELD_OUT = "folds=all: every utterance was trained on and none held out. Train the same with folds=5, or folds=1."
UNFINISHED = "No fold is finished yet. Run the same command again: it goes on from where it stopped."


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a run's models predicted for the utterances that they had not seen, one row an utterance (N,).

    rows: of the store. fold: whose model. confidence: the posterior of what was predicted, as trained; scaled: after
    temperature scaling, cross-fitted.
    """

    rows: np.ndarray
    fold: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    scaled: np.ndarray
    temperature: float

    @property
    def is_right(self) -> np.ndarray:
        """Whether each prediction is the label, (N,)."""
        return self.labels == self.predicted

    @functools.cached_property
    def pairs(self) -> list[metrics.ConfusedPair]:
        """The pairs of classes that were confused, the most often confused first."""
        return metrics.confused_pairs(self.labels, self.predicted)


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that is known of a run.

    result: None for an unfinished run. logs: the columns of each fold's log.csv, by fold. held_out: None where there is
    none. store: None where it is gone. rows: the ledger's of this competition; row: the run's own, None without one.
    """

    directory: Path
    experiment: Experiment
    result: dict[str, Any] | None
    logs: dict[int, dict[str, np.ndarray]]
    fold_results: dict[int, dict[str, Any]]
    store: "Store | None"
    held_out: HeldOut | None
    conditions: dict[str, Any] | None
    rows: list[dict[str, str]]
    row: dict[str, str] | None

    @property
    def competition(self) -> str:
        """The competition's name."""
        return self.directory.parent.name

    @property
    def run_id(self) -> str:
        """<competition>/<experiment>-<digest8>."""
        return f"{self.competition}/{self.directory.name}"

    @property
    def missing(self) -> str:
        """Why there is nothing to say about held-out utterances, and what to do; "" where there is."""
        if self.held_out is not None:
            return ""
        if self.experiment.folds == "all":
            return NO_HELD_OUT
        if not self.fold_results:
            return UNFINISHED
        return "The store that the run was made from is not here, nor are its labels: run the preprocess stage again."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src report`."""
    parser.add_argument("run", metavar="RUN", help="a run, or a unique prefix of its name")
    parser.add_argument("--out", metavar="DIR", type=Path,
                        help="where to write (default: the folder `report` in the run's)")
    parser.add_argument("--tensorboard", metavar="DIR", type=Path,
                        help="also write the curves as TensorBoard's event files under DIR")


def main(options: argparse.Namespace) -> None:
    """Write the report of a run."""
    directory = find_run(options.run)
    if options.tensorboard:
        from src.tensorboard import check_installed, write_events

        check_installed()
    evidence = gather(directory)
    out = options.out or directory / "report"
    pictures, html = write(evidence, out)
    print(f"report: {shown_path(out / 'index.html')} ({shown_bytes(len(html.encode()))}; {pictures} pictures beside "
          "it)")
    if options.tensorboard:
        write_events(options.tensorboard, {f"{evidence.run_id}/fold_{k}": log for k, log in evidence.logs.items()})
        print(f"curves: tensorboard --logdir {options.tensorboard}")


def gather(directory: Path) -> Evidence:
    """Read all that is known of the run in `directory`.

    Raises SettingError for a blend and for what another stage than train has made, InputError for torn files.
    """
    result = read_json(directory / "result.json") if (directory / "result.json").exists() else None
    if not (directory / "experiment.json").exists():
        members = ", ".join((result or {}).get("members", {}))
        said = f"a blend; report its runs: {members}" if members else "no run of the train stage: no experiment.json"
        raise SettingError(f"report {directory.name}: {said}")
    experiment = from_json(read_json(directory / "experiment.json"))
    folds = {int(path.name[5:]): path for path in directory.glob("fold_*")}
    fold_results = {k: read_json(folds[k] / "result.json") for k in sorted(folds)
                    if (folds[k] / "result.json").exists()}
    if (directory / "pretrain.json").exists() or any("num_right" not in found for found in fold_results.values()):
        raise SettingError(f"report {directory.name}: not a run of the train stage that tells classes apart; what it "
                           f"measured is in {shown_path(directory)}")
    rows = [row for row in ledger.read() if row["competition"] == directory.parent.name and row["status"] == "ok"]
    own = [row for row in rows if row["run_id"] == f"{directory.parent.name}/{directory.name}"]
    store = _open_store(directory)
    conditions = directory / "conditions.json"
    return Evidence(
        directory=directory, experiment=experiment, result=result, fold_results=fold_results, store=store,
        logs={k: _read_log(folds[k] / "log.csv") for k in sorted(folds) if (folds[k] / "log.csv").exists()},
        held_out=_held_out(store, {k: folds[k] for k in fold_results}) if store else None,
        conditions=read_json(conditions) if conditions.exists() else None, rows=rows, row=own[-1] if own else None)


def write(evidence: Evidence, out: Path) -> tuple[int, str]:
    """Write index.html and the pictures into the folder `out`; return the number of pictures and the page."""
    sections = [_about(evidence), _learning(evidence), _accuracy(evidence), _confusions(evidence), _speakers(evidence),
                _calibration(evidence), _embeddings(evidence), _neighbours(evidence)]
    html = render(Page(
        competition=evidence.competition, experiment=evidence.experiment.name, run_id=evidence.run_id,
        state=_state(evidence), lead=evidence.experiment.hypothesis, tiles=_tiles(evidence), sections=sections))
    pictures: list[Picture] = [picture for section in sections for picture in section.pictures]
    for picture in pictures:
        with atomic_open(out / f"{picture.name}.png", "wb") as file:
            file.write(picture.png)
    with atomic_open(out / "index.html") as file:
        file.write(html)
    return len(pictures), html


def _open_store(directory: Path) -> "Store | None":
    from src.store import Store

    path = store_of(directory)
    return Store.open(path) if path else None


def _read_log(path: Path) -> dict[str, np.ndarray]:
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return {name: np.array([float(cell or "nan") for cell in cells]) for name, cells in zip(header, zip(*rows))}


def _held_out(store: "Store", fold_dirs: Mapping[int, Path]) -> HeldOut | None:
    parts = [(k, *read_logits(path / "valid.npz")) for k, path in fold_dirs.items()
             if (path / "valid.npz").exists()]
    parts = [(k, rows, logits) for k, rows, logits in parts if len(rows)]
    if not parts:
        return None
    rows, logits = (np.concatenate([part[at] for part in parts]) for at in (1, 2))
    if rows.max() >= len(store.labels) or logits.shape[1] != len(store.speakers) or not np.isfinite(logits).all():
        raise InputError(f"{next(iter(fold_dirs.values())).parent}: its logits are not of this store, or not finite; "
                         "remove the run's folder and train it again")
    labels = store.labels[rows]
    scaled, temperature = metrics.scaled_confidence(logits, labels)
    return HeldOut(rows, np.concatenate([np.full(len(part[1]), part[0]) for part in parts]), labels, logits.argmax(1),
                   metrics.confidence(logits), scaled, temperature)


def _state(evidence: Evidence) -> str:
    done, total = len(evidence.fold_results), num_folds(evidence.experiment.folds)
    made = f"report of {time.strftime('%Y-%m-%d %H:%M')}"
    if evidence.result:
        return f"finished {evidence.result['finished'].replace('T', ' ').removesuffix('Z')} UTC · {made}"
    return f"not finished: {done} of {total} folds · {made}"


def _tiles(evidence: Evidence) -> list[Tile]:
    experiment, held_out, row = evidence.experiment, evidence.held_out, evidence.row
    tiles = []
    if held_out is not None:
        num_right, num_total = int(held_out.is_right.sum()), len(held_out.labels)
        low, high = metrics.interval(num_right, num_total)
        tiles += [
            Tile("accuracy, held out", _share(num_right / num_total), f"95\u00a0%: {low:.3f}\u00a0to\u00a0{high:.3f}"),
            Tile("right", f"{num_right:,}", f"of {num_total:,} whole utterances"),
            Tile("macro F1", _share(_figures(evidence).mean(weighted=False)[2]), "mean over speakers"),
        ]
    if evidence.conditions and evidence.conditions.get("shifted") is not None:
        tiles.append(Tile("accuracy, shifted", _share(evidence.conditions["shifted"]), "estimate for a shifted test"))
    if row:
        tiles += [Tile(f"{half} score", row[half], row["score_kind"]) for half in ("public", "private") if row[half]]
    if evidence.fold_results:
        results = evidence.fold_results.values()
        tiles += [
            Tile("accuracy, training", _share(float(np.mean([r["train"] for r in results]))), "crops, augmented"),
            Tile("parameters", _count(next(iter(results))["params"]), experiment.encoder.name),
            Tile("training time", shown_time(sum(r["seconds"] for r in results)), experiment.train.device),
        ]
    fits = num_folds(experiment.folds)
    tiles.append(Tile("steps", f"{experiment.train.steps:,}", f"{fits} fold{'s' * (fits > 1)}, batch "
                      f"{experiment.train.batch_size}, seed {experiment.seed}"))
    if evidence.store:
        tiles.append(Tile("speakers", f"{len(evidence.store.speakers):,}",
                          f"{len(evidence.store.train_rows):,} training utterances"))
    return tiles


def _about(evidence: Evidence) -> Section:
    row, tables = evidence.row, []
    if row and row["changed"]:
        changes = [change.partition(": ")[::2] for change in row["changed"].split("; ")]
        tables.append(Table(("setting", f"{row['parent'] or 'parent'} → this run"), changes, frozenset({0, 1}),
                            "What differs from the parent"))
    settings = [(key, "" if value is None else str(value)) for key, value in flatten(evidence.experiment).items()]
    return Section(
        "Run", tables=tables, command=row["command"] if row else "",
        missing="" if row else "The run is not in the ledger, so neither its command nor its parent is known.",
        folded=[(f"All {len(settings)} settings", Table(("setting", "value"), settings, frozenset({0, 1})))])


def _learning(evidence: Evidence) -> Section:
    from src import report_plots as plots

    logs = [*evidence.logs.values()]
    if not logs:
        return Section("Learning curves", missing="Nothing is logged before the first validation.")
    text = ("Thin lines are folds, thick ones their mean. " if len(logs) > 1 else "") + (
        "Training accuracy is that of augmented crops, with the head's margin; validation hears whole utterances.")
    missing = "" if any("valid_metric" in log for log in logs) else \
        "Nothing was validated on the way (train.valid_every=0)."
    if evidence.experiment.folds == "all":
        missing = NO_HELD_OUT
    steps = [(f"fold {k}", f"{r['best_step']:,}", _share(r["train"]),
              _share(r["num_right"] / r["num_valid"]) if r["num_valid"] else "-", f"{r['num_valid']:,}",
              shown_time(r["seconds"])) for k, r in evidence.fold_results.items()]
    table = Table(("", "weights of step", "training", "held out", "utterances", "time"), steps, frozenset({0}))
    pictures = plots.accuracy_curves(logs), plots.loss_curves(logs), plots.learning_rate_curve(logs)
    return Section("Learning curves", text, pictures, [table] if steps else [], missing=missing)


def _accuracy(evidence: Evidence) -> Section:
    from src import report_plots as plots

    held_out, pictures, tables = evidence.held_out, [], []
    if evidence.conditions:
        counts = {name: (item["num_right"], item["num_valid"]) for name, item in evidence.conditions.items()
                  if isinstance(item, dict)}
        pictures.append(plots.conditions_chart(counts, evidence.conditions.get("shifted")))
        rows = [(name, _share(right / max(1, total)), "{} to {}".format(*map(_share, metrics.interval(right, total))),
                 f"{right:,}", f"{total:,}") for name, (right, total) in counts.items()]
        tables.append(Table(("condition", "accuracy", "95 % interval", "right", "of"), rows, frozenset({0})))
    missing = [evidence.missing] if evidence.missing else []
    if not evidence.conditions and held_out is not None and evidence.store.kind != "cepstra":
        missing.append(f"Not measured by condition: bash run.sh conditions {evidence.run_id} does that where the "
                       "competition has audio files.")
    if held_out is not None:
        lengths, unit = _lengths(evidence.store, held_out.rows)
        bins = metrics.length_bins(lengths)
        is_right = held_out.is_right
        if len(bins) > 1:
            pictures.append(plots.length_chart([lengths[part] for part in bins], [is_right[part] for part in bins],
                                               unit))
        rows = [(" to ".join(dict.fromkeys(f"{end(lengths[part]):.4g}" for end in (np.min, np.max))),
                 _share(is_right[part].mean()),
                 "{} to {}".format(*map(_share, metrics.interval(is_right[part].sum(), len(part)))), f"{len(part):,}")
                for part in bins]
        tables.append(Table((unit, "accuracy", "95 % interval", "utterances"), rows, frozenset({0})))
    return Section("Accuracy", "Held-out utterances, whole; intervals are Wilson's.", pictures, tables,
                   missing=" ".join(missing))


def _confusions(evidence: Evidence) -> Section:
    from src import report_plots as plots

    held_out = evidence.held_out
    if held_out is None:
        return Section("Confusions", missing=evidence.missing)
    names, labels, predicted = evidence.store.speakers, held_out.labels, held_out.predicted
    text = "Rows are who spoke, columns who was heard; colour is the share of a row's utterances."
    order = np.arange(len(names))
    if len(names) > plots.NAMED_CLASSES:
        order = metrics.confusion_order(labels, predicted, len(names))
        text += f" Confused speakers stand side by side; the {len(names) - len(order):,} never confused are left out."
    if not len(order):
        return Section("Confusions", "Every held-out utterance is heard right.")
    if len(order) <= plots.NAMED_CLASSES:
        picture = plots.confusion_chart(metrics.confusion(labels, predicted, order), [names[k] for k in order])
    else:
        shares = metrics.confusion_picture(labels, predicted, order, plots.PICTURE_PX)
        picture = plots.confusion_image(shares, len(order))
    if not held_out.pairs:
        return Section("Confusions", f"{text} Nothing is wrong here.", [picture])
    support = _figures(evidence).support
    pairs = [(names[p.a], names[p.b], f"{p.a_for_b} of {support[p.a]}", f"{p.b_for_a} of {support[p.b]}")
             for p in held_out.pairs[:NUM_PAIRS]]
    wrong = np.flatnonzero(~held_out.is_right)
    surest = wrong[np.argsort(-held_out.scaled[wrong], kind="stable")][:NUM_MISTAKES]
    mistakes = [(evidence.store.utt_ids[held_out.rows[i]], names[labels[i]], names[predicted[i]],
                 _share(held_out.scaled[i])) for i in surest.tolist()]
    return Section("Confusions", text, [picture], [
        Table(("speaker", "other", "heard as other", "other heard as it"), pairs, frozenset({0, 1}),
              f"The most confused pairs, {len(pairs)} of {len(held_out.pairs):,}"),
        Table(("utterance", "said by", "heard as", "confidence"), mistakes, frozenset({0, 1, 2}),
              f"The surest mistakes, {len(mistakes)} of {len(wrong):,}; confidence after temperature scaling")])


def _speakers(evidence: Evidence) -> Section:
    from src import report_plots as plots

    if evidence.held_out is None:
        return Section("Speakers", missing=evidence.missing)
    figures, names = _figures(evidence), evidence.store.speakers
    rows = [(names[k], *(_share(values[k]) for values in (figures.precision, figures.recall, figures.f1)),
             str(figures.support[k])) for k in figures.worst_first().tolist()]
    total = f"{int(figures.support.sum()):,}"
    foot = [(f"{name} average", *map(_share, figures.mean(weighted)), total)
            for name, weighted in (("macro", False), ("weighted", True))]
    unheard = int((figures.support == 0).sum())
    text = "Worst first; click a heading to sort otherwise." + (
        f" {unheard:,} without held-out utterances come last and are in no average." if unheard else "")
    pictures = [plots.recall_histogram(figures.recall[figures.support > 0])] if len(names) > plots.NAMED_CLASSES else []
    return Section("Speakers", text, pictures, [Table(("speaker", "precision", "recall", "F1", "support"), rows,
                                                      frozenset({0}), foot=foot, is_long=True)])


def _calibration(evidence: Evidence) -> Section:
    from src import report_plots as plots

    held_out = evidence.held_out
    if held_out is None:
        return Section("Calibration", missing=evidence.missing)
    is_right = held_out.is_right
    before, after = (metrics.reliability(values, is_right) for values in (held_out.confidence, held_out.scaled))
    rows = [(name, f"{found.ece:.4f}", _share(values.mean()), _share(is_right.mean()))
            for name, found, values in (("as trained", before, held_out.confidence),
                                        (f"temperature {held_out.temperature:.3f}", after, held_out.scaled))]
    return Section(
        "Calibration", f"When it is 80 % sure, is it right four times in five? ECE is the mean gap over "
        f"{metrics.NUM_BINS} bins of confidence; a marker's area is its bin's share. The temperature is fitted on one "
        "half of the held-out utterances and judged on the other.",
        [plots.reliability_diagram(before, after, held_out.temperature)],
        [Table(("", "ECE", "mean confidence", "accuracy"), rows, frozenset({0}))])


def _embeddings(evidence: Evidence) -> Section:
    from src import report_plots as plots

    held_out = evidence.held_out
    if held_out is None:
        return Section("Embeddings", missing=evidence.missing)
    fold = int(held_out.fold.min())
    model_path = evidence.directory / f"fold_{fold}" / "model.pt"
    at = np.flatnonzero(held_out.fold == fold)
    if not model_path.exists() or len(at) < 4:
        return Section("Embeddings", missing="No map: the fold's model.pt is gone." if len(at) >= 4 else
                       f"No map: fold {fold} has only {len(at)} held-out utterances.")
    at = np.sort(np.random.default_rng(0).permutation(at)[:MAP_UTTERANCES])
    vectors = embed(model_path, evidence.store, held_out.rows[at])
    points, method = project(vectors)
    labels, names = held_out.labels[at], evidence.store.speakers
    present = set(labels.tolist())
    named, whose = range(len(names)), ""
    if len(names) > MAP_CLASSES:
        confused = dict.fromkeys(k for pair in held_out.pairs for k in (pair.a, pair.b) if k in present)
        named, whose = [*confused][:MAP_NAMES], " The speakers named are those of the most confused pairs."
    shown = {k: names[k] for k in named if k in present}
    return Section(
        "Embeddings", f"{len(at):,} held-out utterances of fold {fold} by that fold's model, {vectors.shape[1]} "
        f"dimensions made two by {method}; distances between far groups mean little.{whose}",
        [plots.embedding_map(points, labels, held_out.is_right[at], shown, method)])


def embed(model_path: Path, store: "Store", rows: np.ndarray) -> np.ndarray:
    """Return the embeddings (N, D) float32 of the store's `rows`, whole and masked, in their order."""
    import torch

    from src.evaluate import autocast
    from src.model import load_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, experiment, _ = load_model(model_path, device)
    unit = store.hop_length if store.kind == "waveform" else 1
    found = {}
    with torch.inference_mode():
        for batch_rows, batch in store.batches(rows, experiment.infer.frame_budget * unit):
            batch = batch.to(device)
            frames, lengths = model.extract(batch.inputs, batch.lengths)
            with autocast(experiment.train) if experiment.train.device == device else torch.no_grad():
                vectors = model.embed(frames, lengths).float().cpu().numpy()
            found |= dict(zip(batch_rows.tolist(), vectors))
    return np.stack([found[row] for row in rows.tolist()])


def project(vectors: np.ndarray) -> tuple[np.ndarray, str]:
    """Return points (N, 2) of vectors (N, D) by cosine, and the method: t-SNE, or principal components for a few.

    t-SNE as van der Maaten & Hinton (2008), by scikit-learn, from the principal components and always the same.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if len(unit) < 30 or unit.shape[1] < 3:
        points = PCA(min(2, *unit.shape), random_state=0).fit_transform(unit)
        return np.pad(points, ((0, 0), (0, 2 - points.shape[1]))), "principal components"
    return TSNE(2, perplexity=min(30, len(unit) / 4), init="pca", random_state=0).fit_transform(unit), "t-SNE"


def _neighbours(evidence: Evidence) -> Section:
    ranked = sorted((row for row in evidence.rows if row["source"] == "ours" and row["valid"]),
                    key=lambda row: -float(row["valid"]))
    if not ranked:
        return Section("Neighbours", missing="The ledger has no finished run of this competition yet.")
    own, parent = evidence.row, None
    if own and own["parent_group"]:
        parent = next((row for row in reversed(evidence.rows) if row["group"] == own["parent_group"]), None)
    at = next((i for i, row in enumerate(ranked) if row is own), 0)
    first = max(0, at - NUM_NEIGHBOURS)
    shown = [(str(i + 1), row) for i, row in enumerate(ranked)][first : at + NUM_NEIGHBOURS + 1]
    marked = frozenset(i for i, (_, row) in enumerate(shown) if row is own)
    if parent and all(row is not parent for _, row in shown):
        shown.append(("parent", parent))
    scores = [column for column in ("shifted", "public", "private") if any(row.get(column) for _, row in shown)]
    columns = ["valid", *scores, "steps", "folds", "seeds"]
    rows = [(rank, row["experiment"] + (" (parent)" if row is parent else ""), row["changed"],
             *(row[column] for column in columns), _count(float(row["params"])) if row["params"] else "",
             shown_time(float(row["seconds"])) if row["seconds"] else "", row["run_id"].rpartition("-")[2])
            for rank, row in shown]
    headings = ("", "experiment", "changed from its parent", *("seed" if c == "seeds" else c for c in columns),
                "params", "time", "digest")
    text = (f"Rows of the ledger by validation accuracy: the {NUM_NEIGHBOURS} above and below of {len(ranked):,}. Runs "
            "of other folds or steps are not the same question.")
    return Section("Neighbours", text, tables=[Table(headings, rows, frozenset({1, 2}), marked=marked)])


def _figures(evidence: Evidence) -> metrics.ClassFigures:
    return metrics.class_figures(evidence.held_out.labels, evidence.held_out.predicted, len(evidence.store.speakers))


def _lengths(store: "Store", rows: np.ndarray) -> tuple[np.ndarray, str]:
    """Return utterances' lengths and their unit: seconds where the store's settings or the course's tell."""
    num_frames = store.num_frames[rows]
    if store.kind == "waveform":
        return num_frames / store.settings["sample_rate"], "seconds"
    if store.kind == "logmel":
        settings = store.settings
        hop_s = settings["hop_length"] / settings["sample_rate"] if "hop_length" in settings else HOP_S
        return num_frames * hop_s, "seconds"
    return num_frames.astype(float), "frames"


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"


def _count(number: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:g}"
