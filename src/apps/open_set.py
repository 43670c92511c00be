"""Measure how well a run tells that nobody it knows is speaking, and set predict's threshold for "none of them".

    python -m src open-set japanese_vowels/default

A tenth of the speakers is left out and the run's experiment trained once more without them, in a run of its own
(open_set_<experiment>-<digest8>, resumed as any run is). Its held-out utterances are the known speakers', all training
utterances of those left out the unknown ones'; each is scored by single folds' models. Two scores are tried, the
calibrated probability of the likeliest speaker and the energy, and the better one kept. Score and threshold are chosen
on the utterances that the error rates are counted on, which flatters, the more the fewer they are. Writes open_set.json
into the original run's folder.
"""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from src.base.errors import SettingError
from src.base.files import digest, write_json
from src.runs.calibration import average_folds, energy, equal_error, error_rates, fit_temperature
from src.runs.folder import OPEN_SET_PREFIX, Run
from src.runs.logits import read_logits
from src.runs.plan import Plan
from src.settings.config import override

if TYPE_CHECKING:
    from src.store.store import Store

VERSION = 1  # raise it when the same run would be measured otherwise
LEFT_OUT_PART, LEFT_OUT_SEED = 0.1, 0
TABLE_ROWS = 101


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src open-set`."""
    parser.add_argument("run", metavar="RUN", help="a finished run, or a unique prefix of its name")
    parser.add_argument("--folds", type=int, metavar="K",
                        help="train so many folds (1: one part held out) instead of the run's own; 1 takes a fifth of "
                             "the time of 5")


def main(options: argparse.Namespace) -> None:
    """Train without a tenth of the speakers, measure, and say both error rates."""
    from src.store.store import Store
    from src.training.run import run as train

    run = Run.open(options.run)
    if run.is_open_set:
        raise SettingError(f"{run.run_id} is itself a run without some of the speakers; name the run that it measures")
    whole = Store.open(run.store_dir())
    left_out = choose(len(whole.speakers))
    store = leave_out(whole, left_out)
    plan = make_open_set_plan(run, store, options.folds)
    print(f"{plan.run_id}: {run.run_id} without {len(left_out)} of {len(whole.speakers)} speakers"
          + (" is there" if plan.is_done() else ""), flush=True)
    if run.experiment.train.pseudo_labels:
        print(f"  and without train.pseudo_labels={run.experiment.train.pseudo_labels}, which name all speakers",
              flush=True)
    train(plan, store)
    result = {"run": plan.run_id, "num_left_out": len(left_out),
              "left_out": [whole.speakers[i] for i in left_out], **measure(Run.open(plan.run_id), store)}
    write_json(run.open_set_path, result)
    print(f"{result['num_known']:,} utterances of known and {result['num_unknown']:,} of unknown speakers")
    for name, found in result["scores"].items():
        print(f"  {name}: equal error rate {found['equal_error_rate']:.1%}" + (
            f", chosen: below {found['threshold']:.3g}, {found['known_refused']:.1%} of known speakers' utterances are "
            f"refused and {found['unknown_accepted']:.1%} of unknown speakers' accepted"
            if name == result["score"] else ""))
    print(run.open_set_path)


def choose(num_speakers: int) -> np.ndarray:
    """Return a tenth of the class indices, at least one, always the same; raises SettingError for too few speakers."""
    if num_speakers < 3:
        raise SettingError(f"open-set: {num_speakers} speakers; with one left out, two must remain to tell apart")
    count = max(1, round(LEFT_OUT_PART * num_speakers))
    return np.sort(np.random.default_rng(LEFT_OUT_SEED).choice(num_speakers, count, replace=False))


def leave_out(store: "Store", left_out: np.ndarray) -> "Store":
    """Return the store without the speakers `left_out`, the others renumbered in their order.

    Their training utterances become its test utterances, so that training neither sees them nor knows their labels;
    the competition's own test utterances are in neither part.
    """
    kept = np.setdiff1d(np.arange(len(store.speakers)), left_out)
    renumbered = np.full(len(store.speakers), -1)
    renumbered[kept] = np.arange(len(kept))
    labels = np.full(len(store.labels), -1, np.int64)
    labels[store.train_rows] = renumbered[store.labels[store.train_rows]]
    train_labels = labels[store.train_rows]
    speakers = tuple(store.speakers[i] for i in kept)
    return replace(store, digest=digest(["open set", VERSION, store.digest, speakers]), speakers=speakers,
                   labels=labels, train_rows=store.train_rows[train_labels >= 0],
                   test_rows=store.train_rows[train_labels < 0])


def make_open_set_plan(run: Run, store: "Store", folds: int | None) -> Plan:
    """Return the run that trains the same experiment on a store with speakers left out.

    folds: instead of the run's own; a run on all utterances (folds="all") holds one part out here.
    """
    experiment = override(run.experiment, {"train.pseudo_labels": ""})  # which are numbers of all speakers
    if folds is not None or experiment.folds == "all":
        experiment = override(experiment, {"folds": 1 if folds is None else folds})
    content = {"stage": "open set", "version": VERSION, "run": run.result["digest"], "store": store.digest,
               "folds": experiment.folds}
    return Plan(run.competition, replace(experiment, name=OPEN_SET_PREFIX + experiment.name),
                store.directory, digest(content))


def measure(run: Run, store: "Store") -> dict[str, Any]:
    """Return both scores' error rates on held-out known speakers and on left-out ones, and which score is better.

    Every fold's model scores all utterances of the unknown speakers, and the known speakers' that it held out.
    """
    rows, known = run.held_out()
    unknown = np.concatenate([read_logits(fold.test_path)[1] for fold in run.folds])
    temperature = fit_temperature(known, store.labels[rows])
    tried = {"probability": lambda logits: np.exp(average_folds(logits[None], temperature)).max(1), "energy": energy}
    if run.experiment.infer.crops:
        del tried["energy"]  # of log-posteriors it is 0, whoever speaks
    scores = {}
    for name, score in tried.items():
        pair = score(known), score(unknown)
        best = equal_error(*pair)
        ends = (0.0, 1.0) if name == "probability" else np.percentile(np.concatenate(pair), (0, 100))
        table = [error_rates(*pair, value) for value in np.linspace(*ends, TABLE_ROWS)]
        scores[name] = {
            "equal_error_rate": best.equal_error_rate, "threshold": best.value, "known_refused": best.known_refused,
            "unknown_accepted": best.unknown_accepted,
            "table": {"threshold": [row.value for row in table],
                      "known_refused": [row.known_refused for row in table],
                      "unknown_accepted": [row.unknown_accepted for row in table]}}
    better = min(scores, key=lambda name: scores[name]["equal_error_rate"])
    return {"score": better, "temperature": temperature, "num_known": len(known), "num_unknown": len(store.test_rows),
            "scores": scores}
