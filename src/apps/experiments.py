"""Every experiment with what the ledger has of it; one experiment's model, module by module.

    python -m src experiments [--competition NAME]
    python -m src experiments NAME [--data NAME_OR_DIR] [--set KEY=VALUE]

In: src/experiments.py and the ledger; for one experiment a competition's store, or else the course's data as it is
known: 600 speakers, 56,666 utterances of 40 log-mels. Out: text. A model's shapes are those of one crop as the training
takes it.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src import experiments
from src.base.errors import RunError
from src.settings import arguments
from src.settings.config import Experiment, Part, to_json

if TYPE_CHECKING:
    from torch import nn

    from src.settings.auto import DataSummary

GAP = "  "


@dataclass(frozen=True)
class Data:
    """What decides a model beside its settings. summary: what "auto" is filled in from; dim: features of a frame."""

    name: str
    summary: DataSummary
    dim: int
    num_speakers: int


@dataclass(frozen=True)
class Line:
    """A module of a model: its place and class, the shape of its output where it was called, its parameters."""

    text: str
    shape: str
    num_parameters: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `python -m src experiments`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this one's model; an experiment's or .json file")
    parser.add_argument("--competition", default="", metavar="NAME", help="what the ledger has of this one alone")
    arguments.add_arguments(
        parser, data={"default": None, "help": "whose store it is for (default: the course's data)"},
        set={"help": "replace a setting of NAME"})


def main(options: argparse.Namespace) -> None:
    """Print the list of experiments, or one experiment with its model."""
    from src.ledger import file as ledger

    rows = [row for row in ledger.known() if options.competition in ("", row["competition"])]
    if not options.name:
        print(list_all(rows, shutil.get_terminal_size().columns))
        return
    named = experiments.get(options.name)
    experiment = arguments.resolve(options, named)
    print("\n".join(describe(named)))
    own = [row for row in rows if row["experiment"] == named.name and row["status"] == "ok"]
    if own:
        from src.ledger.table import View, table

        print("\n" + table(own, "text", View(width=shutil.get_terminal_size().columns)), end="")
    print("\n" + "\n".join(show_model(experiment, _data_of(experiment, options.data))))


def list_all(rows: list[dict[str, str]], width: int) -> str:
    """Return each experiment's parent and question, and its best settings in each competition of the ledger's rows."""
    from src.ledger.columns import SHOWN, Part
    from src.ledger.groups import groups

    best: dict[tuple[str, str], str] = {}
    ours = [group for group in groups(rows) if group.last["source"] == "ours" and group.last["stage"] != "tune"
            and group.last["metric"] == "accuracy" and group.values("valid")]
    for group in sorted(ours, key=lambda group: -group.mean("valid")):
        cells = {name: SHOWN[name].show(group, Part([group])) for name in ("valid", "public", "private", "time")}
        said = ", ".join(f"{name} {cell}" if name != "time" else cell for name, cell in cells.items() if cell)
        best.setdefault((group.last["experiment"], group.last["competition"]), f"{group.last['competition']}: {said}")
    lines = []
    for name in experiments.names():
        experiment = experiments.get(name)
        of = f" (of {experiment.parent})" if experiment.parent else ""
        found = [said for (named, _), said in best.items() if named == name]
        lines += textwrap.wrap(f"{name}{of}: {experiment.hypothesis}", width, subsequent_indent="    ")
        lines += [line for said in found for line in textwrap.wrap(said, width, initial_indent="    ",
                                                                   subsequent_indent="      ")]
    end = "The best settings that the ledger has, by valid. `bash run.sh experiments NAME` prints one with its model."
    return "\n".join([*lines, "", *textwrap.wrap(end, width)])


def describe(experiment: Experiment) -> list[str]:
    """Return what an experiment is: its parent, its question, and what it changes."""
    lines = [f"{experiment.name}: {experiment.hypothesis}"]
    _, _, changes = experiments.EXPERIMENTS.get(experiment.name, ("", "", {}))
    if experiment.parent:
        lines += ["", f"changes of {experiment.parent}:"]
        lines += [f"{GAP}{key} = {_say(value)}" for key, value in changes.items()]
    return lines


def _say(value: Any) -> str:
    if isinstance(value, Part):
        return value.name + "".join(f", {key} {to_json(item)}" for key, item in value.kwargs.items())
    return str(value)


def _data_of(experiment: Experiment, data: str | None) -> Data:
    """Return the data that a model is for; raises RunError where a competition has no store of these features yet."""
    from src.base.files import read_json
    from src.competition.open import open_competition
    from src.settings.auto import DataSummary
    from src.settings.parts import complete_experiment, lookup
    from src.store.find import find_store

    if data:
        competition = open_competition(data)
        store_dir = find_store(competition, experiment.features)
        if store_dir is None:
            raise RunError(f"{competition.name}: no store for these features; run `bash run.sh preprocess --data "
                           f"{data}` first, with the same --experiment and --set")
        meta = read_json(store_dir / "meta.json")
        return Data(competition.name, DataSummary.from_json(meta["summary"]), meta["dim"] or 0, len(meta["speakers"]))
    encoder = complete_experiment(experiment).encoder.name
    is_waveform = experiment.features.store == "waveform" or (
        encoder != "auto" and lookup("encoder", encoder).takes == "waveform")
    summary = DataSummary("waveform" if is_waveform else "logmel", 56666, 80, 541)
    return Data("the course's data", summary, 0 if is_waveform else experiment.features.num_mels, 600)


def show_model(experiment: Experiment, data: Data) -> list[str]:
    """Return the lines of an experiment's model: modules, the shapes of what they return for one crop, parameters."""
    import torch

    from src.model.speaker_model import SpeakerModel, num_parameters
    from src.settings.auto import adapt

    complete = adapt(experiment, data.summary)
    kind = data.summary.kind
    model = SpeakerModel(complete, kind, data.dim, data.num_speakers).eval()
    num_frames = complete.train.crop_frames
    size = (1, num_frames * complete.features.hop_length) if kind == "waveform" else (1, num_frames, data.dim)
    shapes = _watch(model)
    with torch.no_grad():
        logits = model(*model.extract(torch.randn(size), None))
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    lines = [Line("module", "output", -1), Line(f"input: a crop of {num_frames} frames", str(list(size)), -1),
             *_lines(model, "model", 0, shapes), Line("logits", str(list(logits.shape)), -1)]
    text_width, shape_width = (max(len(getattr(line, part)) for line in lines) for part in ("text", "shape"))
    counts = ["parameters", *("" if line.num_parameters < 1 else f"{line.num_parameters:,}" for line in lines[1:])]
    return [f"{data.name}: {data.num_speakers} speakers; {num_parameters(model):,} parameters, {learning:,} learn", "",
            *(f"{line.text:{text_width}}{GAP}{line.shape:{shape_width}}{GAP}{count:>12}".rstrip()
              for line, count in zip(lines, counts))]


def _watch(model: nn.Module) -> dict[nn.Module, str]:
    """Return {module: the shape of its last output}, filled in when the model is called."""
    from torch import Tensor

    shapes: dict[nn.Module, str] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor):
            shapes[module] = str(list(first.shape))

    for module in model.modules():
        module.register_forward_hook(note)
    return shapes


def _lines(module: nn.Module, name: str, depth: int, shapes: dict[nn.Module, str], times: int = 1) -> Iterator[Line]:
    """Yield the line of a module, which stands there `times` in a row, and the lines of the children of one."""
    from src.model.speaker_model import num_parameters

    children = [*module.named_children()]
    details = "" if children else f"({module.extra_repr()})"
    said = f"{times} x " * (times > 1) + type(module).__name__ + details
    yield Line(f"{GAP * depth}{name}: {said}", shapes.get(module, ""), num_parameters(module) * times)
    for _, alike in itertools.groupby(children, lambda item: _looks(*item, shapes)):
        same = [*alike]
        (first, child), (last, _) = same[0], same[-1]
        yield from _lines(child, first if len(same) == 1 else f"{first} to {last}", depth + 1, shapes, len(same))


def _looks(name: str, module: nn.Module, shapes: dict[nn.Module, str]) -> tuple[str, ...]:
    """Return what numbered modules must share to have one line."""
    return ("" if name.isdigit() else name, repr(module), *(shapes.get(each, "") for each in module.modules()))
