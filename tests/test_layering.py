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
FOUNDATION = {"errors", "files", "workspace", "config", "batch"}
PARTS = {name for name in MODULES if name.startswith("encoders.")} | {"pooling", "heads"}  # encoders.layers is shared
STAGES = {"preprocess", "train", "ensemble", "submit"}
HEAVY = {"torch", "torchaudio", "pandas", "sklearn", "scipy", "matplotlib", "optuna", "soundfile"}


def imports(name, top_only=False):
    """Return the modules of ours and the packages that a module imports."""
    tree = ast.parse(MODULES[name].read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    ours, packages = set(), set()
    for node in nodes:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"src.{alias.name}" for alias in node.names] if node.module == "src" else [node.module]
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


def test_parts_import_torch_and_masking_and_nothing_else_of_ours():
    for name in PARTS:
        siblings = {other for other in imports(name)[0] if other.startswith("encoders.")}
        more = {"frontend", "config"} if name == "encoders.hubert" else set()  # the one front end, beside its waveform
        assert imports(name)[0] - siblings <= {"masking"} | more, name


def test_stages_do_not_import_one_another():
    for name in STAGES:
        assert not imports(name)[0] & (STAGES - {name}), name


def test_the_foundation_knows_nobody_above_it():
    for name in FOUNDATION:
        assert imports(name, top_only=True)[0] <= FOUNDATION, name


def test_only_the_kaggle_module_calls_the_kaggle_tool():
    assert [name for name, path in MODULES.items() if '"competitions"' in path.read_text()] == ["kaggle"]


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
