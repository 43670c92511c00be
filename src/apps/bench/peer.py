"""Another program's training and prediction, measured beside ours by `python -m src bench --peer SCRIPT`.

The peer is run as `python SCRIPT FOLDER --model course|seed88 --steps N` on a folder in the course's format and prints,
as its last line, a JSON object with `crops_per_s` of its training and `predict_utterances_per_s` over the test part.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from src.base.errors import RunError, SettingError
from src.base.machine import peak_mb
from src.competition.open import Competition

MODELS = ("course", "seed88")  # what a peer can be asked for, named as our experiments
STEPS = {"cpu": {"course": 600, "seed88": 40}, "cuda": {"course": 6000, "seed88": 2000}}  # some twenty seconds
RATES = ("crops_per_s", "predict_utterances_per_s")
OURS = ("PYTHONPATH", "PYTHONSAFEPATH")  # run.sh's, by which a peer would find our modules and not those beside it
POLL_S = 0.2
SHOWN_LINES = 8  # of a failed peer's messages


@dataclass(frozen=True)
class PeerResult:
    """What a run of the peer printed, and on a CPU the largest memory of its processes together in MB, else 0."""

    crops_per_s: float
    predict_utterances_per_s: float
    peak_mb: float


@dataclass(frozen=True)
class Peer:
    """A peer program and the folder that it is run on."""

    script: Path
    directory: Path
    device: str

    @classmethod
    def of(cls, script: str, competition: Competition, device: str) -> "Peer":
        """Return a peer to run; raises SettingError for a script that is not there or another kind of input."""
        path = Path(script)
        if not path.is_file():
            raise SettingError(f"--peer {script}: no such file")
        if competition.kind != "course" or not competition.has_test:
            found = f"a {competition.kind} folder" if competition.kind != "course" else "without a test part"
            raise SettingError(f"--peer: {competition.directory} is {found}; a peer reads the course's format, with "
                               "metadata.json, mapping.json and testdata.json: give such a folder with --data")
        return cls(path.absolute(), competition.directory, device)

    def run(self, model: str, steps: int) -> PeerResult:
        """Run the peer once; raises RunError with its last messages when it fails or prints no result."""
        command = [sys.executable, str(self.script), str(self.directory), "--model", model, "--steps", str(steps)]
        environment = {name: value for name, value in os.environ.items() if name not in OURS}
        environment |= {"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, errors="replace", env=environment, start_new_session=True)
        try:
            peak = 0.0
            while True:
                try:
                    output, messages = process.communicate(timeout=POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    if self.device == "cpu":
                        peak = max(peak, sum(map(peak_mb, _family(str(process.pid)))))
        finally:
            _end(process)
        result = _parse(output)
        if process.returncode or result is None:
            why = f"exit code {process.returncode}" if process.returncode else f"printed no {' and '.join(RATES)}"
            last = "\n".join(f"  {line}" for line in (messages or output).strip().splitlines()[-SHOWN_LINES:])
            raise RunError(f"--peer {self.script}: the peer failed on {model} ({why}); its last lines:\n{last}")
        return PeerResult(*result, peak)


def _parse(output: str) -> tuple[float, ...] | None:
    """Return the rates in the last line of a peer's output, None where it holds none."""
    try:
        content = json.loads(output.strip().splitlines()[-1])
        rates = tuple(float(content[name]) for name in RATES)
    except (IndexError, ValueError, KeyError, TypeError):
        return None
    return rates if all(math.isfinite(rate) and rate > 0 for rate in rates) else None


def _family(process_id: str) -> list[str]:
    """Return the ids of a process and all that it started, as far as the system tells."""
    try:
        children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    except OSError:
        children = []
    return [process_id, *(one for child in children for one in _family(child))]


def _end(process: subprocess.Popen) -> None:
    """End a peer and what it started, where it still runs: an interrupt must leave nothing behind."""
    if process.poll() is None:
        os.killpg(process.pid, 9)
        process.wait()
    for stream in (process.stdout, process.stderr):
        stream.close()
