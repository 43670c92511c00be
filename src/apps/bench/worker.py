"""A process of its own for each thing that is measured, so that neither an import nor an earlier case counts."""

import multiprocessing
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any, Protocol

from tqdm import tqdm

from src.apps.bench.passes import Meter
from src.base.errors import RunError
from src.base.machine import peak_mb
from src.base.signals import start_deaf, stay_deaf


class Case(Protocol):
    """Something to measure."""

    def open(self) -> Meter:
        """Make ready what is measured."""


class Worker:
    """A case in a process of its own, which sleeps while another one is measured.

    Use it as a context. Raises RunError when the process dies; an error in the case is raised here as it was there.
    """

    def __init__(self, case: Case, about: str) -> None:
        self.about = about
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, case), daemon=True)
        start_deaf(self.process)
        theirs.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what a method of the case's meter returns there."""
        try:
            self.pipe.send((method, arguments))
            answer = self.pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self.process.join(5)
            raise RunError(f"bench: {self.about}: the process that measured it died with exit code "
                           f"{self.process.exitcode} (-9: mostly for want of memory); leave this stage or experiment "
                           "out, or make room") from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def measure(self, seconds: float) -> tuple[float, float]:
        """Return the rate and the peak memory so far in MB: of the GPU where there is one, else of the process."""
        return self.call("rate", seconds), self.call("peak_mb")


def _serve(pipe: Connection, case: Case) -> None:
    """Answer the parent's calls until it kills this process or is gone."""
    stay_deaf()  # the parent gets a Ctrl-C too, and ends this process
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process would leave behind
    meter = None
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            meter = meter or case.open()
            answer = peak_mb() if method == "peak_mb" else getattr(meter, method)(*arguments)
        except KeyboardInterrupt:  # while training, whose loop listens for it
            return
        except Exception as error:
            error.add_note(traceback.format_exc())
            answer = error
        pipe.send(answer)
