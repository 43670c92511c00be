"""run.sh from anywhere, by a link, with any caller's Python settings, and what it does with a .venv. Installs nothing.

It is tried in a checkout whose program only says how it was started, whose .venv leads to the Python of the tests, and
with a PATH of a few tools and stand-ins for what would make a .venv.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.__main__ import main

ROOT = Path(__file__).parent.parent
TOOLS = ("bash", "cmp", "cp", "dirname", "find", "flock", "ls", "mkdir", "rm", "tail")
PYTHON = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
NEW_PYTHON = PYTHON.replace("exec", 'case "$*" in "-m pip "*) [ -z "$NO_NETWORK" ]; exit;; esac\nexec')
MAKES_VENV = """#!/bin/sh
for folder; do :; done  # the last word
case "$*" in
    "-c "*) exit 0 ;;
    "pip "*) [ -z "$NO_NETWORK" ]; exit ;;
    *--clear*) rm -rf "$folder" ;;
    *--allow-existing* | *"-m venv"*) ;;
    *) exit 2 ;;  # as uv does where a .venv is
esac
mkdir -p "$folder/bin" && cp "$NEW_PYTHON" "$folder/bin/python"
"""
READLINK = f"""#!/bin/sh
case "$1" in -*) echo "readlink: illegal option" >&2; exit 1;; esac  # as on an old macOS
exec "{shutil.which("readlink")}" "$1"
"""
PROGRAM = """
import multiprocessing, subprocess, sys
from src.place import told
if __name__ == "__main__":
    print(told(), flush=True)
    if "processes" in sys.argv:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(told), flush=True)
        subprocess.run([sys.executable, "-c", "from src.place import told; print(told())"], check=True)
"""
PLACE = """
import json, os, sys
import src, tqdm
def told():
    return json.dumps([os.path.dirname(os.path.dirname(src.__file__)), os.path.basename(os.path.dirname(tqdm.__file__)),
                       os.getcwd()])
"""


def write(path, text, is_program=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if is_program:
        path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path):
    """A checkout with a finished .venv, beside the folder of tools `tools`."""
    directory = tmp_path / "checkout"
    write(directory / "src" / "__init__.py", "")
    write(directory / "src" / "__main__.py", PROGRAM)
    write(directory / "src" / "place.py", PLACE)
    shutil.copy(ROOT / "run.sh", directory)
    write(directory / "requirements.txt", "torch==9.9\n")
    write(directory / ".venv" / "installed.txt", "torch==9.9\n")
    write(directory / ".venv" / "bin" / "python", PYTHON, is_program=True)
    write(tmp_path / "tools" / "readlink", READLINK, is_program=True)
    write(tmp_path / "tools" / "uv", MAKES_VENV, is_program=True)
    write(tmp_path / "tools" / "python3", MAKES_VENV, is_program=True)
    write(tmp_path / "new_python", NEW_PYTHON, is_program=True)
    for name in TOOLS:
        if shutil.which(name):
            (tmp_path / "tools" / name).symlink_to(shutil.which(name))
    return directory


def call(tmp_path, run_sh, *arguments, cwd=None, check=0, **variables):
    """Run a run.sh and return its output; `check` is the exit code that must come."""
    cleared = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "CDPATH")  # which `run.sh test` has set
    environment = {name: value for name, value in os.environ.items() if name not in cleared}
    environment |= {"PATH": str(tmp_path / "tools"), "NEW_PYTHON": str(tmp_path / "new_python")} | variables
    done = subprocess.run(["bash", str(run_sh), *arguments], capture_output=True, text=True, cwd=cwd or tmp_path,
                          env=environment)
    assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def places(output):
    """Return what each process of the program told: the folder of its src, that of its tqdm, and its working folder."""
    return [tuple(json.loads(told)) for told in re.findall(r'\["[^\]]*"\]', output)]  # two may share a line


def contents(directory):
    return {path.relative_to(directory): path.read_text() for path in directory.rglob("*") if path.is_file()}


def test_cdpath_does_not_lead_elsewhere(checkout, tmp_path):
    told = places(call(tmp_path, "checkout/run.sh", CDPATH=str(tmp_path)))
    assert told == [(str(checkout), "tqdm", str(tmp_path))]


@pytest.mark.parametrize(("arguments", "count"), [(["processes"], 3),
                                                  (["torchrun", "--nproc-per-node", "2", "-m", "src"], 2)])
def test_the_callers_own_src_is_not_run(checkout, tmp_path, arguments, count):
    caller = tmp_path / "caller"
    for path in ("src/__init__.py", "src/__main__.py", "src/place.py", "tqdm/__init__.py"):
        write(caller / path, "print('the caller\\'s')\ndef told(): return 'the caller\\'s'\n")
    output = call(tmp_path, checkout / "run.sh", *arguments, cwd=caller)
    assert places(output) == [(str(checkout), "tqdm", str(caller))] * count
    assert "the caller's" not in output


def test_the_packages_and_the_home_of_another_python_are_not_used(checkout, tmp_path):
    write(tmp_path / "ros" / "tqdm.py", "raise SystemExit('built for another Python')\n")
    for variables in ({"PYTHONPATH": str(tmp_path / "ros")}, {"PYTHONHOME": str(tmp_path / "ros")}):
        assert places(call(tmp_path, checkout / "run.sh", **variables)) == [(str(checkout), "tqdm", str(tmp_path))]


def test_a_link_leads_to_the_checkout_and_a_venv_beside_it_is_left_whole(checkout, tmp_path):
    folder = tmp_path / "home" / "bin"
    write(folder / ".venv" / "mine.txt", "kept\n")
    (folder / "run.sh").symlink_to("second")
    (folder / "second").symlink_to("../../checkout/run.sh")
    for decoy in ("checkout", "other"):
        (tmp_path / "home" / decoy).mkdir()
    (tmp_path / "home" / "other" / "bin").symlink_to(folder)  # whose ../../checkout is not home/checkout
    for run_sh in (folder / "run.sh", tmp_path / "home" / "other" / "bin" / "run.sh"):
        assert places(call(tmp_path, run_sh)) == [(str(checkout), "tqdm", str(tmp_path))]
    assert contents(folder / ".venv") == {Path("mine.txt"): "kept\n"}


def test_a_venv_of_the_users_own_is_left_whole(checkout, tmp_path):
    shutil.rmtree(checkout / ".venv")
    write(checkout / ".venv" / "mine.txt", "kept\n")
    said = call(tmp_path, checkout / "run.sh", check=4)
    assert said == f"error: {checkout}/.venv was not made by run.sh; rename or delete it, and run again\n"
    assert contents(checkout / ".venv") == {Path("mine.txt"): "kept\n"}


def test_a_linked_venv_of_other_packages_is_left_whole(checkout, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (checkout / ".venv").rename(elsewhere)
    (checkout / ".venv").symlink_to(elsewhere)
    assert places(call(tmp_path, checkout / "run.sh"))
    write(elsewhere / "installed.txt", "torch==1.0\n")
    before = contents(elsewhere)
    assert "is a link" in call(tmp_path, checkout / "run.sh", check=4)
    assert contents(elsewhere) == before


@pytest.mark.parametrize(("flock", "said"), [
    ("echo 'flock: 9: Function not implemented' >&2; exit 65", "cannot lock files here (Function not implemented)"),
    ("echo 'flock: Operation not supported' >&2; exit 1", "cannot lock files here (Operation not supported)"),
    ('[ "$1" = 9 ]', "another run.sh is setting up .venv; waiting for it"),
], ids=["util-linux", "busybox", "held"])
def test_a_lock_that_is_held_is_told_from_one_that_cannot_be(checkout, tmp_path, flock, said):
    (checkout / ".venv" / "installed.txt").unlink()
    write(checkout / ".venv" / "install.log", "")
    (tmp_path / "tools" / "flock").unlink()
    write(tmp_path / "tools" / "flock", f"#!/bin/sh\n{flock}\n", is_program=True)
    output = call(tmp_path, checkout / "run.sh")
    assert [said in output, "cannot lock" in output, "waiting" in output] == [True, "cannot" in said, "waiting" in said]
    assert places(output) == [(str(checkout), "tqdm", str(tmp_path))]


def test_file_names_are_utf8_whatever_the_locale(checkout, tmp_path):
    write(checkout / "src" / "__main__.py", "import sys; print(sys.getfilesystemencoding())")
    assert call(tmp_path, checkout / "run.sh", LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0") == "utf-8\n"


@pytest.mark.parametrize("installer", ["uv", "pip"])
@pytest.mark.parametrize("python", ["gone", "of other packages", "stopped while it was set up"])
def test_a_venv_that_does_not_work_is_made_anew(checkout, tmp_path, installer, python):
    venv = checkout / ".venv"
    write(venv / "lib" / "old.txt", "")
    if installer == "pip":
        (tmp_path / "tools" / "uv").unlink()
    if python == "gone":  # a system upgrade, or a container that has none there
        (venv / "bin" / "python").unlink()
        (venv / "bin" / "python").symlink_to(tmp_path / "usr" / "bin" / "python3")
    if python == "of other packages":  # a newer one in its place, which looks for them in another folder
        write(venv / "bin" / "python", PYTHON.replace(' "$@"', ' -S "$@"'))
    if python == "stopped while it was set up":
        write(checkout / "requirements.txt", "torch==10.0\n")
        call(tmp_path, checkout / "run.sh", NO_NETWORK="1", check=4)
    said = call(tmp_path, checkout / "run.sh")
    assert f"setting up {venv}" in said
    assert ("making it anew" in said) == (python != "stopped while it was set up")
    assert places(said) == [(str(checkout), "tqdm", str(tmp_path))]
    assert not (venv / "lib").exists()
    assert "setting up" not in call(tmp_path, checkout / "run.sh")


@pytest.mark.parametrize(("arguments", "data", "verbose"), [
    ([], "japanese_vowels", False),
    (["--data", "x"], "x", False),
    (["--verbose"], "japanese_vowels", True),
    (["--verbose", "--data", "x"], "x", True),
    (["--data", "x", "--verbose"], "x", True),
    (["--verbose", "run", "--data", "x"], "x", True),
    (["run", "--data", "x"], "x", False),
])
def test_no_stage_means_run(monkeypatch, arguments, data, verbose):
    called = []
    monkeypatch.setattr("src.stream.run", called.append)
    assert main(arguments) == 0
    assert [(options.stage, options.data, options.verbose) for options in called] == [("run", data, verbose)]


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--verbose", "--help"]])
def test_help_alone_lists_the_stages(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert (caught.value.code, "preprocess" in capsys.readouterr().out) == (0, True)
