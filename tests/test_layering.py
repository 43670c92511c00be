"""The picture of the house, held against the code: imports run one way, and start-up imports nothing heavy."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from src.__main__ import BESIDE

SRC = Path(__file__).parent.parent / "src"
MODULES = {".".join(p.relative_to(SRC).with_suffix("").parts): p for p in SRC.rglob("*.py") if p.name != "__init__.py"}
STREAM = {"preprocess", "train", "ensemble", "submit"}
# Who may import whom: each room or stage, and the rooms that it may import next to its own files. What is not listed
# here (stream, __main__, apps) may import everything below, and nothing imports it.
MAY_IMPORT = {
    "base": set(),
    "settings": {"base"},
    "competition": {"base"},
    "model": {"base", "settings"},
    "augment": {"base", "settings", "model"},
    "store": {"base", "settings", "competition", "model"},
    "runs": {"base", "settings"},
    "experiments": {"base", "settings"},
    "ledger": {"base", "settings", "competition", "runs"},
    "training": {"base", "settings", "model", "augment", "store", "runs"},
    "shift": {"base", "settings", "competition", "store", "model", "runs", "training"},
    "preprocess": {"base", "settings", "competition", "store"},
    "train": {"base", "settings", "store", "runs", "ledger", "training"},
    "ensemble": {"base", "settings", "runs", "ledger"},
    "submit": {"base", "competition", "store", "runs", "ledger"},
    "search": {"base", "settings", "competition", "store", "runs", "shift", "experiments", "ledger", "training",
               "train"},
    "stream": {"base", "settings", "competition", "store", "runs", "shift", "ledger", "experiments", *STREAM},
}
ONLY_MASKING = {"augment"}  # of model, these rooms may import masking alone
ONLY_FRONTEND = {"store"}  # of model, these rooms may import the front end and masking alone
# Rooms whose files never import torch when they are imported, so that a stage with nothing to do ends at once.
TORCH_FREE = {"base", "settings", "competition", "runs", "ledger", "experiments", "stream", *STREAM}
TORCH_FREE_FILES = {"store.ensure", "store.find", "store.folds", "store.table"}  # of a room that may load torch
HEAVY = {"torch", "torchaudio", "pandas", "sklearn", "scipy", "matplotlib", "optuna", "soundfile"}


def room_of(name):
    return name.partition(".")[0]


def imports(name, top_only=False):
    """Return the modules of ours (by `from src.room import module` too) and the packages that a module imports."""
    tree = ast.parse(MODULES[name].read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    ours, packages = set(), set()
    for node in nodes:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for full in names:
            (ours if full.startswith("src.") else packages).add(
                full.removeprefix("src.") if full.startswith("src.") else full.split(".")[0])
    return ours & set(MODULES), packages


def test_no_import_goes_in_a_circle():
    seen, stack = set(), []

    def visit(name):
        assert name not in stack, f"circle: {' -> '.join([*stack, name])}"
        if name not in seen:
            stack.append(name)
            for other in sorted(imports(name)[0]):
                visit(other)
            stack.pop()
            seen.add(name)

    for name in MODULES:
        visit(name)


def test_every_room_imports_what_the_table_lets_it():
    for name in MODULES:
        room = room_of(name)
        others = {room_of(other) for other in imports(name)[0]} - {room}
        if room in MAY_IMPORT:
            assert others <= MAY_IMPORT[room], name
        assert room in ("apps", "__main__") or "apps" not in others, name


def test_rooms_below_the_model_take_only_its_masking_and_front_end():
    for name in MODULES:
        of_model = {other for other in imports(name)[0] if room_of(other) == "model"}
        if room_of(name) in ONLY_MASKING:
            assert of_model <= {"model.masking"}, name
        if room_of(name) in ONLY_FRONTEND:
            assert of_model <= {"model.masking", "model.frontend"}, name


def test_an_encoder_imports_no_other_part():
    for name in MODULES:
        if name.startswith("model.encoders."):
            parts = {"model.pooling", "model.heads", "model.speaker_model", "model.checkpoint"}
            assert not imports(name)[0] & parts, name


def loaded(names):
    """Return the heavy packages that importing these modules of ours loads, in a new interpreter."""
    code = (f"import importlib, sys\nfor name in {names!r}: importlib.import_module('src.' + name)\n"
            f"print(*sorted(set(sys.modules) & {HEAVY - {'pandas'}!r}))")
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SRC.parent,
                          check=True).stdout.split()


def test_a_torch_free_room_loads_no_torch():
    names = sorted(name for name in MODULES if room_of(name) in TORCH_FREE or name in TORCH_FREE_FILES)
    assert loaded(names) == []


def test_only_the_kaggle_module_calls_the_kaggle_tool():
    assert [name for name, path in MODULES.items() if '"competitions"' in path.read_text()] == ["ledger.kaggle"]


STAGE_NAMES = ["run", "preprocess", "train", "ensemble", "submit", *BESIDE]


def processor_seconds(code):
    """Return what `code` takes of a processor in a new interpreter, at best of three, and what it prints.

    A busy machine is not a slow start, and a slow machine is known by what else starts slowly there.
    """
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SRC.parent,
                                check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(took), output


@pytest.fixture(scope="module")
def numpy_seconds():
    return processor_seconds("import numpy")[0]


@pytest.mark.parametrize("stage", [None, *STAGE_NAMES])
def test_help_is_quick_and_imports_nothing_heavy(stage, numpy_seconds):
    code = ("import sys\nfrom src.__main__ import main\n"
            f"try: main({[stage, '--help'] if stage else ['--help']!r})\nexcept SystemExit: pass\n"
            f"print(sorted(set(sys.modules) & {HEAVY!r}))")
    took, output = processor_seconds(code)
    assert output.strip().endswith("[]"), output
    assert took < 4 * numpy_seconds, f"{took:.2f} s, and {numpy_seconds:.2f} s for numpy alone"


def test_every_module_says_what_it_is():
    for name, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text())), name
