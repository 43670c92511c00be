"""The training loop: step, validate, keep the best, save, resume, log; whatever is learnt.

Every random number of a step comes from its seed (seed, fold, step), and no state but the weights, the optimiser and
the counters is carried from step to step: a run that was stopped anywhere and started again ends in the same bits.
"""

import contextlib
import csv
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from src.base import distributed
from src.base.errors import DivergedError
from src.base.files import atomic_open
from src.base.signals import stop_signals
from src.base.torch_files import load_tensors
from src.runs.folder import BEST, LAST, RunFold
from src.settings.config import Optim
from src.training.collectives import any_of, broadcast, mean
from src.training.optim import WeightAverage, build_optimiser, learning_rate

SAVE_EVERY_S = 60.0
SHOW_EVERY_S = 0.5
AGREE_EVERY = 10  # steps between two moments at which several processes agree whether to stop
LOG_EVERY_S = 30.0  # between two lines of a progress bar that goes to a file


@dataclass
class Progress:
    """How far a run is. `log` holds one row a validation; `sums` what was summed since the last row."""

    step: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_metric: float = -math.inf
    log: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    num_summed: int = 0


def step_seed(seed: int, fold: int, step: int) -> int:
    """Return the seed of everything random in one step; step -1 is the initialisation."""
    return int(np.random.SeedSequence([seed, fold, step + 1]).generate_state(1, np.uint64)[0] >> 1)


@dataclass
class _State:
    """What changes while the loop runs.

    device_sums: of what the steps measured since the last row of the log, on the device. shown, saved: when the sums
    were last fetched for the bar and when the checkpoint was written, in seconds of the monotonic clock.
    """

    progress: Progress
    optimiser: torch.optim.Optimizer
    average: WeightAverage | None
    device_sums: dict[str, Tensor]
    shown: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)


@dataclass
class Loop:
    """Minimise a loss over `steps` steps.

    loss_of(step) returns {"loss": scalar tensor with a graph, other scalars to log}; gradients_of(step), where it is
    given, is called instead and has done the backward pass too. validate(step), called every `valid_every` steps (0:
    never) and at the end, returns {"valid_metric": larger is better, other numbers to log}.
    directory receives last.pt while running, best.pt where `select` is "best", and log.csv. stop_asked: asked between
    steps instead of the signals; bar_line: of the terminal, where several processes show their progress.
    """

    model: nn.Module
    optim: Optim
    steps: int
    loss_of: Callable[[int], dict[str, Tensor]]
    directory: Path
    seed: int
    fold: int = 0
    device: str = "cpu"
    gradients_of: Callable[[int], dict[str, Tensor]] | None = None
    validate: Callable[[int], dict[str, float]] | None = None
    valid_every: int = 0
    select: str = "last"
    description: str = "train"
    stop_asked: Callable[[], bool] | None = None
    bar_line: int | None = None

    def run(self) -> Progress:
        """Train from where the directory's last.pt left off to the end, and leave the selected weights in the model.

        Raises DivergedError when the loss is not finite. Ctrl-C and SIGTERM end the step under way, save, and raise
        KeyboardInterrupt; a second one stops at once, losing what came after the last save.
        """
        state = self._begin()
        progress = state.progress
        stopping = contextlib.nullcontext(self.stop_asked) if self.stop_asked else stop_signals()
        with stopping as stop_asked, self._bar(progress.step) as bar:
            while progress.step < self.steps:
                self._step(progress.step, state.optimiser, state.device_sums)
                if state.average:
                    state.average.update()
                progress.num_summed += 1
                progress.step += 1
                bar.update()
                self._after_step(state, bar, stop_asked)
            if any_of(stop_asked()):  # during the last step, its validation or its save
                raise KeyboardInterrupt
        if self.select == "best" and progress.best_step:
            self.model.load_state_dict(self._read(BEST))
        elif state.average:
            state.average.swap()
        return progress

    def _begin(self) -> _State:
        """Return where the directory's last.pt left off, or the beginning."""
        optimiser = build_optimiser(list(self.model.parameters()), self.optim, self.device)
        average = WeightAverage(self.model, self.optim.ema_decay) if self.optim.ema_decay else None
        progress = self._resume(optimiser, average)
        device_sums = {name: torch.tensor(value, dtype=torch.float64, device=self.device)
                       for name, value in progress.sums.items()}
        return _State(progress, optimiser, average, device_sums)

    def _bar(self, first_step: int) -> tqdm:
        """Return the progress bar, of rank 0 alone; in a terminal it is redrawn more often than in a file."""
        is_shown = sys.stderr.isatty()
        return tqdm(total=self.steps, initial=first_step, desc=self.description, unit="step", dynamic_ncols=True,
                    mininterval=SHOW_EVERY_S if is_shown else LOG_EVERY_S, leave=self.bar_line is None or not is_shown,
                    position=self.bar_line if is_shown else None, disable=not distributed.is_main())

    def _after_step(self, state: _State, bar: tqdm, stop_asked: Callable[[], bool]) -> None:
        """Fetch, show, validate and save where that is due; raises KeyboardInterrupt where a stop was asked for."""
        progress, is_shared = state.progress, distributed.world_size() > 1
        now, is_last = time.monotonic(), progress.step == self.steps
        is_valid = is_last or (self.valid_every and progress.step % self.valid_every == 0)
        # Several processes stop, save and fail at steps at which all of them ask, whatever their clocks say.
        is_common = is_valid or not is_shared or progress.step % AGREE_EVERY == 0
        is_stopped = is_common and any_of(stop_asked())
        is_saved = is_valid or is_stopped or (is_common and now - state.saved > SAVE_EVERY_S)
        if is_saved or (is_common and is_shared) or now - state.shown > SHOW_EVERY_S:
            self._fetch(progress, state.device_sums, is_common)
            shown_sums = {k: f"{v / progress.num_summed:.3g}" for k, v in progress.sums.items()}
            bar.set_postfix(shown_sums, refresh=False)
            state.shown = now
        if is_valid:
            self._validate(progress, state.average)
            state.device_sums.clear()
        if is_saved:
            kept, state.saved = state.saved, time.monotonic()
            progress.seconds += state.saved - kept
            self._save(progress, state.optimiser, state.average)
        if is_stopped and not is_last:
            raise KeyboardInterrupt

    def _step(self, step: int, optimiser: torch.optim.Optimizer, device_sums: dict[str, Tensor]) -> None:
        """Take one step of the optimiser and add what it measured to `device_sums`, without synchronising."""
        torch.manual_seed(step_seed(self.seed, self.fold, step) + distributed.rank())
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, self.steps, self.optim)
        if not self.model.training:  # to ask every module takes a millisecond
            self.model.train()
        values = (self.gradients_of or self._gradients)(step)
        if self.optim.grad_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.optim.grad_clip)
        optimiser.step()
        for name, value in values.items():
            device_sums[name] = device_sums.get(name, 0.0) + value.detach().double()

    def _gradients(self, step: int) -> dict[str, Tensor]:
        """Return what loss_of does, after the backward pass."""
        values = self.loss_of(step)
        self.model.zero_grad(set_to_none=True)
        values["loss"].backward()
        return values

    def _fetch(self, progress: Progress, device_sums: dict[str, Tensor], is_common: bool) -> None:
        """Bring the sums over to the host (the loop's one synchronisation) and stop on a loss that is not finite.

        is_common: whether all processes are here, so that all of them stop.
        """
        progress.sums = {name: float(value) for name, value in device_sums.items()}
        if is_common and any_of(not math.isfinite(progress.sums.get("loss", 0.0))):
            raise DivergedError(f"{self.directory}: the loss is not finite at step {progress.step}; lower optim.lr, "
                                "set optim.grad_clip=1 or train.precision=float32, and run again")

    def _validate(self, progress: Progress, average: WeightAverage | None) -> None:
        """Append a row to the log and begin new sums; keep a copy of the weights when they are the best so far."""
        row = {"step": progress.step, "lr": learning_rate(progress.step - 1, self.steps, self.optim)}
        row |= mean({name: value / progress.num_summed for name, value in progress.sums.items()})
        progress.sums, progress.num_summed = {}, 0
        if self.validate and self.valid_every:
            if average:
                average.swap()
            self.model.eval()
            row |= broadcast(self.validate(progress.step) if distributed.is_main() else None)
            if row["valid_metric"] > progress.best_metric:
                progress.best_metric, progress.best_step = row["valid_metric"], progress.step
                if self.select == "best":
                    self._write(BEST, self.model.state_dict())
            if average:
                average.swap()
        progress.log.append(row)
        if not distributed.is_main():
            return
        with atomic_open(RunFold(self.directory).log_path) as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            writer.writeheader()
            writer.writerows(progress.log)

    def _save(self, progress: Progress, optimiser: torch.optim.Optimizer, average: WeightAverage | None) -> None:
        self._write(LAST, {
            "model": self.model.state_dict(), "optimiser": optimiser.state_dict(),
            "average": average.state_dict() if average else None, "progress": asdict(progress)})

    def _resume(self, optimiser: torch.optim.Optimizer, average: WeightAverage | None) -> Progress:
        state = self._read(LAST)
        if state is None:
            return Progress()
        self.model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        if average:
            average.load_state_dict(state["average"])
        return Progress(**state["progress"])

    def _read(self, name: str) -> dict[str, Any] | None:
        """Return a file's content as rank 0 sees it, None where there is none."""
        path = self.directory / name
        return broadcast(load_tensors(path) if distributed.is_main() and path.exists() else None)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        if not distributed.is_main():
            return
        with atomic_open(self.directory / name, "wb") as file:
            torch.save(content, file)
