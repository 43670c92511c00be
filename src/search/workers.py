"""The processes that run a study's trials, which import torch."""

import multiprocessing
import signal
import sys
import time

from src.base.errors import SpeakerIDError
from src.search.question import Question
from src.search.study import StudySpec, work
from src.search.trial import Objective

STOP_S = 5.0  # for workers that a Ctrl-C reached too to save and end


def run_workers(question: Question, spec: StudySpec, deadline: float, num_workers: int) -> list[int]:
    """Run the search in this process, or in several that start afresh, and return their exit codes."""
    if num_workers == 1:
        _work(question, spec, deadline, 1)
        return [0]
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work_alone, args=(question, spec, deadline, num_workers), daemon=True)
               for _ in range(num_workers)]
    kept = signal.signal(signal.SIGTERM, _interrupt)
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        stop = time.monotonic() + STOP_S
        for worker in workers:
            worker.join(max(0.0, stop - time.monotonic()))
        for worker in workers:
            if worker.pid:
                worker.terminate()  # asks it once more: it saves, and its trial goes on next time
                worker.join()
        raise
    finally:
        signal.signal(signal.SIGTERM, kept)
    return [worker.exitcode or 0 for worker in workers]


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _work_alone(question: Question, spec: StudySpec, deadline: float, num_workers: int) -> None:
    """Be a worker in a process of its own."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _work(question, spec, deadline, num_workers)
    except SpeakerIDError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _work(question: Question, spec: StudySpec, deadline: float, num_workers: int) -> None:
    parent = multiprocessing.parent_process()

    def go_on() -> bool:
        return time.monotonic() < deadline and (parent is None or parent.is_alive())

    work(spec, Objective(question, num_workers), go_on)
