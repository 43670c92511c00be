"""Kaggle's command line tool, called from here alone: list a competition's submissions, submit a file.

In: a competition's name on kaggle.com, a submission file and its message. Out: `Submission` records that the ledger
joins on the run id in their description. The tool prints strings only, and it ends with status 0 after some failures,
so what it printed is read as well. Its CSV is that of 2.x (with `ref`) or of 1.x (without).
"""

import csv
import io
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from src.base.errors import InputError, RunError

LIST_TIMEOUT_S = 120
SUBMIT_TIMEOUT_S = 1800
REQUIRED = ("fileName", "date", "description", "status", "publicScore", "privateScore")
SIGN_IN = ("sign in: put kaggle.json from kaggle.com/settings ('Create New Token') into ~/.kaggle/ with mode 600, "
           "or set KAGGLE_USERNAME and KAGGLE_KEY")
CAUSES = (  # what the tool's versions say, in lower case -> what to do
    (("403", "forbidden", "must accept"), "accept the competition's rules on its page, with the account that submits"),
    (("404", "could not find competition"), "check the competition's name: the last part of its address on kaggle.com"),
    (("no module named 'six'",), "pip install six"),
    (("429", "too many requests"), "wait a minute, then run the same command again"),
    # Last, for a warning about the file's mode names it before another cause.
    (("kaggle.json", "authenticate", "401", "unauthorized", "access_token", "kaggle_username"), SIGN_IN),
)


@dataclass(frozen=True)
class Submission:
    """One submission as Kaggle lists it; a score not published yet is None."""

    file_name: str
    date: str
    description: str
    status: str  # "complete", "pending" or "error", in both versions of the tool
    public: float | None
    private: float | None
    ref: str = ""

    @property
    def is_scored(self) -> bool:
        """Whether Kaggle has accepted it and gives a score."""
        return self.status == "complete" and not (self.public is None and self.private is None)


def submissions(competition: str) -> list[Submission]:
    """Return the newest 200 of the account's submissions to a competition, newest first.

    Raises RunError when the tool is missing, not signed in, too slow, or prints what is no list of submissions.
    """
    command = ["competitions", "submissions", competition, "--csv", "-q"]
    finished = _call([*command, "--page-size", "200"], LIST_TIMEOUT_S)
    if finished.returncode and "unrecognized arguments" in finished.stderr:  # 1.x has no pages: it lists all
        finished = _call(command, LIST_TIMEOUT_S)
    _check(finished, competition)
    return sorted(_read_csv(finished.stdout), key=lambda submission: submission.date, reverse=True)


def submit(competition: str, path: Path, message: str) -> str:
    """Submit a file under a message, and return the tool's confirmation.

    Raises InputError when the file is missing, RunError when the tool fails or does not confirm.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file to submit; write it with `python -m src submit`")
    finished = _call(["competitions", "submit", competition, "-f", str(path), "-m", message, "-q"], SUBMIT_TIMEOUT_S)
    _check(finished, competition)
    confirmation = finished.stdout.strip()
    if "successfully submitted" not in confirmation.lower():
        raise RunError(f"kaggle did not confirm that {path} was submitted; it printed {_shown(finished)}. Look at "
                       f"`kaggle competitions submissions {competition}` before submitting again")
    return confirmation.splitlines()[-1]


def _call(arguments: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    beside_python = Path(sys.executable).with_name("kaggle")  # .venv is used without being activated
    program = shutil.which("kaggle") or (str(beside_python) if beside_python.is_file() else None)
    if program is None:
        raise RunError(f"kaggle's command line tool is not installed: {sys.executable} -m pip install kaggle six; "
                       f"then {SIGN_IN}")
    try:
        return subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              encoding="utf-8", errors="replace", timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise RunError(f"kaggle {' '.join(arguments[:3])}: no answer in {timeout_s:g} s; check the network, then run "
                       "the same command again") from error
    except OSError as error:
        raise RunError(f"{program} cannot be run ({error}): {sys.executable} -m pip install --force-reinstall "
                       "kaggle six") from error


def _check(finished: subprocess.CompletedProcess[str], competition: str) -> None:
    """Raise RunError where the tool failed, whatever its exit status."""
    said = f"{finished.stdout}\n{finished.stderr}"
    failed_quietly = finished.stdout.lstrip().lower().startswith(("could not submit", "could not find competition"))
    if finished.returncode == 0 and not failed_quietly:
        return
    for words, remedy in CAUSES:
        if any(word in said.lower() for word in words):
            raise RunError(f"kaggle, competition '{competition}': {_shown(finished)}; {remedy}")
    raise RunError(f"kaggle, competition '{competition}', ended with status {finished.returncode}: {_shown(finished)}")


def _read_csv(text: str) -> list[Submission]:
    lines = text.splitlines(keepends=True)
    header_at = next((at for at, line in enumerate(lines) if set(REQUIRED) <= set(line.strip().split(","))), None)
    if header_at is None:  # notices about newer versions may stand before the header
        if not text.strip() or "no submissions found" in text.lower():
            return []
        raise RunError(f"kaggle printed no list of submissions but {text.strip()[:200]!r}; "
                       "bring the tool up to date: pip install --upgrade kaggle six")
    found = []
    for row in csv.DictReader(io.StringIO("".join(lines[header_at:]), newline="")):
        if None in row or None in row.values():
            raise RunError(f"kaggle printed a line that does not fit its header: {row}; run the same command again")
        found.append(Submission(row["fileName"], row["date"], row["description"],
                                row["status"].rpartition(".")[2].lower(), _score(row["publicScore"]),
                                _score(row["privateScore"]), row.get("ref", "")))
    return found


def _score(text: str) -> float | None:
    """Return a score; an empty one is not known yet, which is not zero."""
    if text.strip().lower() in ("", "none", "null", "nan"):
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RunError(f"kaggle printed the score {text!r}, which is no number; run the same command again")
    return value


def _shown(finished: subprocess.CompletedProcess[str]) -> str:
    """Return the last thing that the tool said, which after a traceback is the error itself."""
    said = (finished.stderr.strip() or finished.stdout.strip()).splitlines()
    return repr(said[-1][:300]) if said else "nothing"
