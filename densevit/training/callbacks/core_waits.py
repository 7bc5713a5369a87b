"""Advice for a training on whose cores other programs run."""

import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as lightning
import torch
from rich.console import Console

from densevit import openmp
from densevit.terminal import show

_MEASURED = 20  # steps: the first are left out, and advice needs the median of as many
_SECONDS_BETWEEN_MEASURED = 0.5  # a reading takes up to a millisecond
_WAITING = 0.5  # of a step; docs/development/cpus.md has measured shares


class CoreWaits(lightning.Callback):
    """Prints once how to make idle threads release their cores, if other programs run on these later: in the median of
    20 steps, the threads of this process wait for a core for half of the step, summed over threads.

    Waiting for the loader is not counted; its workers have a lower priority. On a CPU, with several threads, and with
    OpenMP's default, which commands change where other programs run at the start.

    clock, waited: the seconds since any moment, and those that threads have waited for a core.
    """

    def __init__(
        self,
        console: Console,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
        waited: Callable[[], float] = openmp.seconds_waited,
    ) -> None:
        self.console, self.folder, self.clock, self.waited = console, folder, clock, waited
        self._shares: deque[float] = deque(maxlen=_MEASURED)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        on_cpu = trainer.strategy.root_device.type == "cpu" and torch.get_num_threads() > 1
        self._due = 0.0 if on_cpu and openmp.spins_by_default() and trainer.is_global_zero else math.inf
        self._first = trainer.global_step + _MEASURED

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._since = self.clock()
        self._measures = trainer.global_step >= self._first and self._since >= self._due
        self._before = self.waited() if self._measures else 0.0

    def on_train_batch_end(self, *_: Any) -> None:
        if self._measures:
            self._due = self.clock() + _SECONDS_BETWEEN_MEASURED
            self._shares.append((self.waited() - self._before) / (self.clock() - self._since))
            if len(self._shares) == _MEASURED and median(self._shares) >= _WAITING:
                self._due, setting = math.inf, f"GOMP_SPINCOUNT={openmp.SPIN_COUNT}"
                show(
                    "Other programs run on this training's cores: its threads wait for one "
                    f"{median(self._shares):.0%} of a step. With {setting}, idle threads release theirs: on two cores, "
                    "1.3 times the steps beside one program, 25 times beside twelve. Results are equal. Fix: "
                    f"Ctrl-C, then {setting} densevit train --resume {self.folder}",
                    self.console,
                )
