"""The kaggle tool, played by a script on PATH that prints what its versions print."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from src.apps import ledger as ledger_command
from src.base.errors import InputError, RunError
from src.ledger import file as ledger
from src.ledger import kaggle
from src.ledger.kaggle import Submission

TWO = ('ref,fileName,date,description,status,publicScore,privateScore\n'
       '41,a.csv,2026-11-20 07:00:00,"hw4/course-1234abcd, first",SubmissionStatus.COMPLETE,0.60824,0.60500\n'
       '42,b.csv,2026-11-20 08:00:00,hw4/best-9999ffff,SubmissionStatus.PENDING,,\n'
       '43,c.csv,2026-11-20 06:00:00,,SubmissionStatus.ERROR,,\n')
ONE = ('Warning: Looks like you are using an outdated API Version\n'
       'fileName,date,description,status,publicScore,privateScore\n'
       'a.csv,2026-11-20 07:00:00,hw4/course-1234abcd,complete,0.60824,\n')


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Return a function that puts a `kaggle` of the given Python body on PATH, alone with what it needs."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-venv" / "python"))
    (tmp_path / "bin").mkdir()
    interpreter = Path(sys.prefix) / "bin" / "python"

    def install(body: str) -> None:
        program = tmp_path / "bin" / "kaggle"
        program.write_text(f"#!{interpreter}\nimport json, pathlib, sys, time\n"
                           f"pathlib.Path({str(tmp_path / 'called')!r}).write_text(json.dumps(sys.argv[1:]))\n{body}\n")
        program.chmod(0o755)

    return install


def called(tmp_path: Path) -> list[str]:
    return json.loads((tmp_path / "called").read_text())


def test_submissions_of_2x(tool, tmp_path):
    tool(f"print({TWO!r}, end='')")
    assert kaggle.submissions("hw4") == [
        Submission("b.csv", "2026-11-20 08:00:00", "hw4/best-9999ffff", "pending", None, None, "42"),
        Submission("a.csv", "2026-11-20 07:00:00", "hw4/course-1234abcd, first", "complete", 0.60824, 0.605, "41"),
        Submission("c.csv", "2026-11-20 06:00:00", "", "error", None, None, "43"),
    ]
    assert called(tmp_path) == ["competitions", "submissions", "hw4", "--csv", "-q", "--page-size", "200"]


def test_submissions_of_1x_which_knows_no_pages(tool):
    tool("if '--page-size' in sys.argv: sys.exit('kaggle: error: unrecognized arguments: --page-size 200')\n"
         f"print({ONE!r}, end='')")
    assert kaggle.submissions("hw4") == [
        Submission("a.csv", "2026-11-20 07:00:00", "hw4/course-1234abcd", "complete", 0.60824, None)]


def test_no_submissions_yet(tool):
    tool("print('No submissions found')")
    assert kaggle.submissions("hw4") == []


@pytest.mark.parametrize(("body", "said"), [
    ("sys.exit('OSError: Could not find kaggle.json. Make sure it is located in ~/.kaggle')", "sign in"),
    ("sys.exit('401 - Unauthorized')", "sign in"),
    ("print('You must authenticate before you can call the Kaggle API.'); sys.exit(1)", "sign in"),
    ("sys.exit('403 - Forbidden - You must accept this competition rules')", "accept the competition's rules"),
    ("sys.exit('404 - Not Found')", "check the competition's name"),
    ("sys.exit(\"ModuleNotFoundError: No module named 'six'\")", "pip install six"),
    ("sys.exit(3)", "status 3: nothing"),
    ("print('<html>Sorry</html>')", "no list of submissions but '<html>"),
    (f"print({TWO.replace(',SubmissionStatus.PENDING', '')!r})", "does not fit its header"),
    (f"print({TWO.replace('0.60824', 'high')!r})", "'high', which is no number"),
    ("time.sleep(20)", "no answer in 1 s"),
])
def test_each_failure_says_what_to_do(tool, monkeypatch, body, said):
    monkeypatch.setattr(kaggle, "LIST_TIMEOUT_S", 1)
    tool(body)
    with pytest.raises(RunError, match=said):
        kaggle.submissions("hw4")


def test_not_installed(tool):
    with pytest.raises(RunError, match=r"not installed: .*pip install kaggle six; then sign in"):
        kaggle.submissions("hw4")


def test_submit(tool, tmp_path):
    path = tmp_path / "submission.csv"
    with pytest.raises(InputError, match=r"submission\.csv: no such file"):
        kaggle.submit("hw4", path, "hw4/course-1234abcd")
    path.write_text("Id,Category\n")
    tool("print('100%'); print('Successfully submitted to HW4')")
    assert kaggle.submit("hw4", path, "hw4/course-1234abcd") == "Successfully submitted to HW4"
    assert called(tmp_path) == ["competitions", "submit", "hw4", "-f", str(path), "-m", "hw4/course-1234abcd", "-q"]
    for answer, said in (("Could not submit to competition", "Could not submit"), ("", "did not confirm"),
                         ("Could not find competition - please verify", "check the competition's name")):
        tool(f"print({answer!r})")  # with status 0, as the tool does
        with pytest.raises(RunError, match=said):
            kaggle.submit("hw4", path, "hw4/course-1234abcd")


def test_ledger_sync_through_the_tool(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SPEAKER_ID_WORKSPACE", str(tmp_path))
    for run_id in ("hw4/course-1234abcd", "hw4/best-9999ffff"):
        ledger.append({"source": "ours", "run_id": run_id, "metric": "accuracy", "status": "ok"})
    tool(f"print({TWO!r}, end='')")
    parser = argparse.ArgumentParser()
    ledger_command.add_arguments(parser)
    ledger_command.main(parser.parse_args(["sync", "ml2022spring-hw4"]))
    said = capsys.readouterr().out
    assert "filled: 1\n  hw4/course-1234abcd: public 0.60824, private 0.605" in said
    assert "no score yet: 1\n  hw4/best-9999ffff" in said
    assert "not from a run in this ledger: 1\n  c.csv of 2026-11-20 06:00 ('')" in said
    assert [(item["public"], item["score_kind"]) for item in ledger.read()] == [("0.60824", "kaggle"), ("", "")]
