"""Measure each stage in turn and print the table.

What is compared is measured in turn (one, the other, one, the other, …), so that a machine that grows slower hits both.
Everything that is written, but for the JSON, lies in a folder of the workspace that is removed at the end.
"""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from src import experiments
from src.apps.bench import machine as machines
from src.apps.bench.batches import FileCrops, MatrixProduct, StoreCrops
from src.apps.bench.machine import PRECISIONS
from src.apps.bench.models import Inference, Training, WholeUtterances
from src.apps.bench.passes import Preprocessing, Reading, part_of
from src.apps.bench.peer import MODELS, STEPS, Peer, PeerResult
from src.apps.bench.table import Row, table
from src.apps.bench.worker import Case, Worker
from src.base.errors import SettingError, nearest
from src.base.files import read_json, write_json
from src.base.machine import usable_cpus
from src.base.text import timestamp
from src.base.workspace import VARIABLE, workspace_dir
from src.competition.open import Competition, open_competition
from src.runs.plan import make_plan
from src.settings import arguments
from src.settings.config import Experiment, Features, override
from src.store.ensure import ensure_store
from src.store.find import find_store

PADDINGS = ("max_length", "longest")
MODEL_STAGES: dict[str, tuple[type, str]] = {"train": (Training, "crops/s"), "infer": (Inference, "utterances/s")}
DIVISORS = (16, 8, 4, 2, 1)  # of the utterances, for --scale
CROP_FRAMES, CROP_BATCHES = 128, (32, 256)
LONGEST_FRAMES = 4940  # the longest test utterance of the course's competition
Turn = Callable[[], None]  # takes one measurement and adds it to its row


def run(options: argparse.Namespace) -> None:
    """Measure what was asked for, print it as a table, and write it as JSON."""
    device = machines.device_of(options.device)
    chosen = chosen_experiments(options, device)
    competition = open_competition(options.data)
    peer = Peer.of(options.peer, competition, device) if options.peer else None
    peer_steps = STEPS[device] | _peer_steps(options.peer_steps)
    machine = machines.describe(device, torch.cuda.get_device_name() if device == "cuda" else None)
    if machine["load"] > machines.BUSY * machine["processors"]:
        print(f"bench: the machine is busy (load {machine['load']:.1f} on {machine['processors']} processors): the "
              "figures will be low and scattered", flush=True)
    stores = {one.features: find_store(competition, one.features) for one in chosen.values()}
    precisions = machines.precisions_of(options.precisions, device)
    bench = Bench(competition, device, options.repeats, options.seconds, precisions, stores)
    peer_runs = {name: partial(peer.run, name, peer_steps[name]) for name in chosen if peer and name in MODELS}
    with _scratch_workspace():
        _measure(bench, chosen, options.stages, peer_runs, DIVISORS if options.scale else (1,))
    print(f"\n{competition.name}: {competition.kind}, {len(competition.utterances):,} utterances; "
          f"{machines.shown(machine)}; {options.repeats} measurements of {options.seconds:g} s each, in turn with what "
          "they are held against\n")
    print("\n".join([*table(bench.rows), "", *filter(None, [bench.growth(), *map(bench.advice, chosen)])]))
    if options.json:
        write_json(options.json, {
            "date": timestamp(), "machine": machine, "competition": competition.name, "kind": competition.kind,
            "num_utterances": len(competition.utterances), "repeats": options.repeats, "seconds": options.seconds,
            "set": options.set, "peer": options.peer, "rows": [row.to_json() for row in bench.rows]})


def _measure(bench: "Bench", chosen: dict[str, Experiment], stages: Sequence[str],
             peer_runs: dict[str, Callable[[], PeerResult]], divisors: Sequence[int]) -> None:
    """Measure the stages in their order; chosen: the experiments by name, peer_runs: their peers'."""
    features = next(iter(chosen.values())).features
    if "preprocess" in stages:
        for divisor in divisors:
            bench.preprocess(features, divisor)
    if "crops" in stages:
        bench.crops(features)
    if "train" in stages:
        bench.matrix_products()
    for name, experiment in chosen.items():
        bench.model(name, experiment, [stage for stage in MODEL_STAGES if stage in stages], peer_runs.get(name))
        if "padding" in stages:
            bench.padding(name, experiment)


def chosen_experiments(options: argparse.Namespace, device: str) -> dict[str, Experiment]:
    """Return the experiments that are measured, by name, each of one fold: several would share the processors."""
    one_alone = {"train.device": device, "folds": 1}
    return {name: arguments.resolve(options, experiments.get(name), one_alone) for name in options.experiments}


def _peer_steps(assignments: list[str]) -> dict[str, int]:
    steps = {}
    for assignment in assignments:
        model, _, number = assignment.partition("=")
        if model not in MODELS:
            raise SettingError(f"--peer-steps {assignment}: unknown model '{model}'{nearest(model, MODELS)}")
        if not number.isdecimal() or int(number) < 1:
            raise SettingError(f"--peer-steps {assignment}: write MODEL=N with a whole number above 0, such as "
                               f"{model}=100")
        steps[model] = int(number)
    return steps


@contextlib.contextmanager
def _scratch_workspace() -> Iterator[None]:
    """Send everything that this process and its children write to a folder that is removed at the end."""
    kept, parent = os.environ.get(VARIABLE), workspace_dir() / "data"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=parent) as scratch:
        os.environ[VARIABLE] = os.path.abspath(scratch)
        try:
            yield
        finally:
            os.environ.pop(VARIABLE)
            if kept is not None:
                os.environ[VARIABLE] = kept


class Bench:
    """The measurements of one competition on one device, a row each.

    precisions: the number types of training and inference. stores: the store of each feature settings, None for one
    that has yet to be made.
    """

    def __init__(self, competition: Competition, device: str, repeats: int, seconds: float, precisions: Sequence[str],
                 stores: dict[Features, Path | None]) -> None:
        self.competition, self.device, self.stores = competition, device, stores
        self.repeats, self.seconds, self.precisions = repeats, seconds, precisions
        self.rows: list[Row] = []
        self.matrix_rows: dict[str, Row] = {}

    def preprocess(self, features: Features, divisor: int) -> None:
        """Measure preprocessing of every divisor-th utterance beside merely reading the files, all of them warm."""
        part = part_of(self.competition, divisor)
        if len({utterance.speaker for utterance in part.utterances if utterance.split == "train"}) < 2:
            return  # too few for a competition
        unit = "utterances/s" if part.kind == "frames" else "files/s"
        size = len(part.utterances)
        reading = self._row(Row("preprocess", f"{size:,} utterances, read only", unit, size))
        made = self._row(Row("preprocess", f"{size:,} utterances", unit, size, beside={"reading": reading}))
        with contextlib.ExitStack() as stack:
            self._in_turn([self._turn(stack, reading, Reading(part)),
                           self._turn(stack, made, Preprocessing(part, features), warm=False)])

    def crops(self, features: Features) -> None:
        """Measure random training crops from the store beside reading a file an item."""
        store_dir, turns, beside = self._store(features), [], {}
        size = min(CROP_FRAMES, read_json(store_dir / "meta.json")["summary"]["median_frames"])
        with contextlib.ExitStack() as stack:
            if self.competition.kind != "frames":  # a table of frames has no file an item
                row = self._row(Row("crops", f"a file an item, {size} frames", "crops/s"))
                case = FileCrops(self.competition, features, size, CROP_BATCHES[0])
                turns, beside = [self._turn(stack, row, case)], {"a file an item": row}
            for batch_size in CROP_BATCHES:
                row = self._row(Row("crops", f"store, {size} frames, batch {batch_size}", "crops/s", beside=beside))
                turns.append(self._turn(stack, row, StoreCrops(store_dir, size, batch_size, self.device)))
            self._in_turn(turns)

    def matrix_products(self) -> None:
        """Measure the rates that training is held against, one of each number type."""
        turns = []
        with contextlib.ExitStack() as stack:
            for precision in self.precisions:
                row = self.matrix_rows[precision] = self._row(Row("train", f"matrix product, {precision}", "TFLOP/s"))
                turns.append(self._turn(stack, row, MatrixProduct(self.device, usable_cpus(), precision)))
            self._in_turn(turns)

    def model(self, name: str, experiment: Experiment, stages: list[str],
              peer_run: Callable[[], PeerResult] | None) -> None:
        """Measure training and inference of an experiment in every precision, and a peer's, all in turn."""
        if not stages:
            return
        store_dir, turns, peer_rows = self._store(experiment.features), [], {}
        with contextlib.ExitStack() as stack:
            for stage in stages:
                case, unit = MODEL_STAGES[stage]
                beside = {}
                if peer_run:
                    peer_rows[stage] = beside["peer"] = self._row(Row(stage, f"{name}, peer", unit))
                for precision in self.precisions:
                    row = self._row(Row(stage, f"{name}, {precision}", unit, beside=dict(beside)))
                    plan = make_plan(self.competition.name, store_dir,
                                     override(experiment, {"train.precision": precision}))
                    matrix_row = self.matrix_rows[precision] if stage == "train" else None
                    turns.append(self._turn(stack, row, case(plan), matrix_row=matrix_row))
                    beside.setdefault(precision, row)
            if "infer" in stages:
                plan = make_plan(self.competition.name, store_dir, experiment)
                row = self._row(Row("infer", f"{name}, {plan.experiment.train.precision}, {LONGEST_FRAMES:,} frames",
                                    "utterances/s"))
                turns.append(self._turn(stack, row, Inference(plan, LONGEST_FRAMES)))
            if peer_run:
                turns.append(partial(_peer_turn, peer_run, peer_rows))
            self._in_turn(turns)

    def padding(self, name: str, experiment: Experiment) -> None:
        """Measure training on whole utterances, padded to the longest of all and to the longest of each batch."""
        plan = make_plan(self.competition.name, self._store(experiment.features), experiment)
        turns, beside = [], {}
        with contextlib.ExitStack() as stack:
            for padding in PADDINGS:
                row = self._row(Row("padding", f"{name}, {padding}", "utterances/s", beside=dict(beside)))
                turns.append(self._turn(stack, row, WholeUtterances(plan, padding)))
                beside[padding] = row
            self._in_turn(turns)

    def advice(self, name: str) -> str:
        """Return which precision trains an experiment faster here; empty where that was not measured."""
        pair = [row for row in self.rows if row.stage == "train" and row.what in [f"{name}, {p}" for p in PRECISIONS]]
        if len(pair) < len(PRECISIONS):
            return ""
        slow, fast = sorted(pair, key=lambda row: row.median)
        if min(fast.values) <= max(slow.values):
            return f"{name}: neither precision trains faster beyond the spread; float32 is the exact one"
        precision = fast.what.removeprefix(f"{name}, ")
        return f"{name}: --set train.precision={precision} trains {fast.median / slow.median:.2f} times as fast"

    def growth(self) -> str:
        """Return how the time of preprocessing grows with the utterances, from sizes of which there are several."""
        made = [row for row in self.rows if row.stage == "preprocess" and row.beside]
        if len(made) < 2:
            return ""
        seconds = [row.num_utterances / row.median for row in made]
        times = made[-1].num_utterances / made[0].num_utterances
        return (f"preprocess: {seconds[0]:.2f} s for {made[0].num_utterances:,} utterances, {seconds[-1]:.2f} s for "
                f"{made[-1].num_utterances:,}: {seconds[-1] / seconds[0]:.1f} times the time for {times:.1f} times as "
                "many")

    def _store(self, features: Features) -> Path:
        self.stores[features] = self.stores[features] or ensure_store(self.competition, features)
        return self.stores[features]

    def _row(self, row: Row) -> Row:
        self.rows.append(row)
        return row

    def _turn(self, stack: contextlib.ExitStack, row: Row, case: Case, warm: bool = True,
              matrix_row: Row | None = None) -> Turn:
        """Make a case ready in a process of its own and return the turn that measures it.

        warm: measure it once to no account. matrix_row: what its operations, to be counted, are said as a part of.
        """
        print(f"bench: {row.stage}: {row.what}", flush=True)
        worker = stack.enter_context(Worker(case, f"{row.stage}: {row.what}"))
        if warm:
            worker.measure(0)
        if matrix_row:
            row.flops, row.matrix_row = worker.call("flops_per_crop"), matrix_row
        return lambda: row.add(*worker.measure(self.seconds))

    def _in_turn(self, turns: list[Turn]) -> None:
        for _ in range(self.repeats):
            for turn in turns:
                turn()


def _peer_turn(run: Callable[[], PeerResult], rows: dict[str, Row]) -> None:
    """Run the peer once, which trains and predicts, and add what is asked for."""
    result = run()
    rates = {"train": result.crops_per_s, "infer": result.predict_utterances_per_s}
    for stage, row in rows.items():
        row.add(rates[stage], result.peak_mb)
