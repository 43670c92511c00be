"""The sections of a run's report: figures, tables and pictures out of what is known of the run."""

import numpy as np

from src.apps.report import metrics, plots
from src.apps.report.evidence import NO_HELD_OUT, Evidence
from src.apps.report.page import Section, Table
from src.base.text import shown_count, shown_share, shown_time
from src.settings.config import flatten

NUM_PAIRS, NUM_MISTAKES, NUM_NEIGHBOURS = 15, 15, 5
MAP_UTTERANCES, MAP_CLASSES, MAP_NAMES = 1000, 12, 8  # names: all of so few classes, else of the most confused
HOP_S = 0.01  # of features that come as log-mels without saying so: the course's


def all_sections(evidence: Evidence) -> list[Section]:
    """Return the report's sections, in its order."""
    return [_about(evidence), _learning(evidence), _accuracy(evidence), _confusions(evidence), _speakers(evidence),
            _calibration(evidence), _embeddings(evidence), _neighbours(evidence)]


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
    logs = [*evidence.logs.values()]
    if not logs:
        return Section("Learning curves", missing="Nothing is logged before the first validation.")
    text = ("Thin lines are folds, thick ones their mean. " if len(logs) > 1 else "") + (
        "Training accuracy is that of augmented crops, with the head's margin; validation hears whole utterances.")
    missing = "" if any("valid_metric" in log for log in logs) else \
        "Nothing was validated on the way (train.valid_every=0)."
    if evidence.experiment.folds == "all":
        missing = NO_HELD_OUT
    steps = [(f"fold {k}", f"{r['best_step']:,}", shown_share(r["train"]),
              shown_share(r["num_right"] / r["num_valid"]) if r["num_valid"] else "-", f"{r['num_valid']:,}",
              shown_time(r["seconds"])) for k, r in evidence.fold_results.items()]
    table = Table(("", "weights of step", "training", "held out", "utterances", "time"), steps, frozenset({0}))
    pictures = plots.accuracy_curves(logs), plots.loss_curves(logs), plots.learning_rate_curve(logs)
    return Section("Learning curves", text, pictures, [table] if steps else [], missing=missing)


def _accuracy(evidence: Evidence) -> Section:
    held_out, pictures, tables = evidence.held_out, [], []
    if evidence.conditions:
        counts = {name: (item["num_right"], item["num_valid"]) for name, item in evidence.conditions.items()
                  if isinstance(item, dict)}
        pictures.append(plots.conditions_chart(counts, evidence.conditions.get("shifted")))
        rows = [(name, shown_share(right / max(1, total)), _interval(right, total), f"{right:,}", f"{total:,}")
                for name, (right, total) in counts.items()]
        tables.append(Table(("condition", "accuracy", "95 % interval", "right", "of"), rows, frozenset({0})))
    missing = [evidence.missing] if evidence.missing else []
    if not evidence.conditions and held_out is not None and evidence.store.kind != "cepstra":
        missing.append(f"Not measured by condition: bash run.sh conditions {evidence.run_id} does that where the "
                       "competition has audio files.")
    if held_out is not None:
        lengths, unit = _lengths(evidence, held_out.rows)
        bins = metrics.length_bins(lengths)
        is_right = held_out.is_right
        if len(bins) > 1:
            pictures.append(plots.length_chart([lengths[part] for part in bins], [is_right[part] for part in bins],
                                               unit))
        rows = [(" to ".join(dict.fromkeys(f"{end(lengths[part]):.4g}" for end in (np.min, np.max))),
                 shown_share(is_right[part].mean()), _interval(is_right[part].sum(), len(part)), f"{len(part):,}")
                for part in bins]
        tables.append(Table((unit, "accuracy", "95 % interval", "utterances"), rows, frozenset({0})))
    return Section("Accuracy", "Held-out utterances, whole; intervals are Wilson's.", pictures, tables,
                   missing=" ".join(missing))


def _confusions(evidence: Evidence) -> Section:
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
    support = evidence.figures().support
    pairs = [(names[p.a], names[p.b], f"{p.a_for_b} of {support[p.a]}", f"{p.b_for_a} of {support[p.b]}")
             for p in held_out.pairs[:NUM_PAIRS]]
    wrong = np.flatnonzero(~held_out.is_right)
    surest = wrong[np.argsort(-held_out.scaled[wrong], kind="stable")][:NUM_MISTAKES]
    mistakes = [(evidence.store.utt_ids[held_out.rows[i]], names[labels[i]], names[predicted[i]],
                 shown_share(held_out.scaled[i])) for i in surest.tolist()]
    return Section("Confusions", text, [picture], [
        Table(("speaker", "other", "heard as other", "other heard as it"), pairs, frozenset({0, 1}),
              f"The most confused pairs, {len(pairs)} of {len(held_out.pairs):,}"),
        Table(("utterance", "said by", "heard as", "confidence"), mistakes, frozenset({0, 1, 2}),
              f"The surest mistakes, {len(mistakes)} of {len(wrong):,}; confidence after temperature scaling")])


def _speakers(evidence: Evidence) -> Section:
    if evidence.held_out is None:
        return Section("Speakers", missing=evidence.missing)
    figures, names = evidence.figures(), evidence.store.speakers
    rows = [(names[k], *(shown_share(values[k]) for values in (figures.precision, figures.recall, figures.f1)),
             str(figures.support[k])) for k in figures.worst_first().tolist()]
    total = f"{int(figures.support.sum()):,}"
    foot = [(f"{name} average", *map(shown_share, figures.mean(weighted)), total)
            for name, weighted in (("macro", False), ("weighted", True))]
    unheard = int((figures.support == 0).sum())
    text = "Worst first; click a heading to sort otherwise." + (
        f" {unheard:,} without held-out utterances come last and are in no average." if unheard else "")
    pictures = [plots.recall_histogram(figures.recall[figures.support > 0])] if len(names) > plots.NAMED_CLASSES else []
    return Section("Speakers", text, pictures, [Table(("speaker", "precision", "recall", "F1", "support"), rows,
                                                      frozenset({0}), foot=foot, is_long=True)])


def _calibration(evidence: Evidence) -> Section:
    held_out = evidence.held_out
    if held_out is None:
        return Section("Calibration", missing=evidence.missing)
    is_right = held_out.is_right
    before, after = (metrics.reliability(values, is_right) for values in (held_out.confidence, held_out.scaled))
    rows = [(name, f"{found.ece:.4f}", shown_share(values.mean()), shown_share(is_right.mean()))
            for name, found, values in (("as trained", before, held_out.confidence),
                                        (f"temperature {held_out.temperature:.3f}", after, held_out.scaled))]
    return Section(
        "Calibration", f"When it is 80 % sure, is it right four times in five? ECE is the mean gap over "
        f"{metrics.NUM_BINS} bins of confidence; a marker's area is its bin's share. The temperature is fitted on one "
        "half of the held-out utterances and judged on the other.",
        [plots.reliability_diagram(before, after, held_out.temperature)],
        [Table(("", "ECE", "mean confidence", "accuracy"), rows, frozenset({0}))])


def _embeddings(evidence: Evidence) -> Section:
    held_out = evidence.held_out
    if held_out is None:
        return Section("Embeddings", missing=evidence.missing)
    fold = int(held_out.fold.min())
    model_path = evidence.run.fold(fold).model_path
    at = np.flatnonzero(held_out.fold == fold)
    if not model_path.exists() or len(at) < 4:
        return Section("Embeddings", missing="No map: the fold's model.pt is gone." if len(at) >= 4 else
                       f"No map: fold {fold} has only {len(at)} held-out utterances.")
    from src.apps.report.embedding_map import embed, project

    at = np.sort(np.random.default_rng(0).permutation(at)[:MAP_UTTERANCES])
    vectors = embed(model_path, evidence.store.directory, held_out.rows[at])
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


def _neighbours(evidence: Evidence) -> Section:
    ranked = sorted((row for row in evidence.rows
                     if row["source"] == "ours" and row["metric"] == "accuracy" and row["valid"]),
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
             *(row[column] for column in columns), shown_count(float(row["params"])) if row["params"] else "",
             shown_time(float(row["seconds"])) if row["seconds"] else "", row["run_id"].rpartition("-")[2])
            for rank, row in shown]
    headings = ("", "experiment", "changed from its parent", *("seed" if c == "seeds" else c for c in columns),
                "params", "time", "digest")
    text = (f"Rows of the ledger by validation accuracy: the {NUM_NEIGHBOURS} above and below of {len(ranked):,}. Runs "
            "of other folds or steps are not the same question.")
    return Section("Neighbours", text, tables=[Table(headings, rows, frozenset({1, 2}), marked=marked)])


def _interval(num_right: int, num_total: int) -> str:
    return "{} to {}".format(*map(shown_share, metrics.interval(num_right, num_total)))


def _lengths(evidence: Evidence, rows: np.ndarray) -> tuple[np.ndarray, str]:
    """Return utterances' lengths and their unit: seconds where the store's settings or the course's tell."""
    store = evidence.store
    num_frames = store.num_frames[rows]
    if store.kind == "waveform":
        return num_frames / store.settings["sample_rate"], "seconds"
    if store.kind == "logmel":
        settings = store.settings
        hop_s = settings["hop_length"] / settings["sample_rate"] if "hop_length" in settings else HOP_S
        return num_frames * hop_s, "seconds"
    return num_frames.astype(float), "frames"
