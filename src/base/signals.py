"""Ctrl-C and SIGTERM as a question that a long piece of work asks itself at moments at which it can stop."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

STOPS = signal.SIGINT, signal.SIGTERM


def start_deaf(process: BaseProcess) -> None:
    """Start a process that a stop does not reach: not while it starts, and not once it has called `stay_deaf`.

    A Ctrl-C goes to every process of a terminal; this one, which hears it, says to the others what is to be done.
    """
    resource_tracker.ensure_running()  # the first process starts it, which would clear the mask
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # which the new process begins with
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)


def stay_deaf() -> None:
    """Ignore stops from now on, also those that came while this process was started."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a question to be asked between two steps; the second acts at once."""
    asked = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    kept = {number: signal.signal(number, ask) for number in STOPS}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
