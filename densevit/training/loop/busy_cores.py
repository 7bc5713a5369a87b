"""Warns if other programs use the cores of a training on a CPU, which slows it down by more than their share."""

import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytorch_lightning as lightning
import torch

from densevit.errors import counted
from densevit.interfaces import Batch

_STEPS = 20  # number of steps in one measurement
_SLOWER = 3.0  # least ratio of the median time per pixel to that of the fastest step
_WAITED = 0.1  # least fraction of the time that threads wait for a core, summed over threads
_WAITED_MOSTLY = 0.25  # the same fraction, averaged over threads, if no step was fast
_SUSTAINED = 30.0  # least seconds of consecutive slow steps


def seconds_waited_for_cores() -> float | None:
    """Returns the seconds that the threads of this process were ready to run but had no core. None if the system does
    not count them; Linux does."""
    waited = []
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, IndexError, ValueError):  # a thread that has ended
            waited.append(int(file.read_text().split()[1]))  # nanoseconds
    return sum(waited) / 1e9 if any(waited) else None


class BusyCores:
    """Warns once in a training on a CPU if its steps take several times as long as the fastest one while its threads
    wait for a core; or if the threads wait a quarter of the time, as when other programs were running from the start.

    The time of an optimiser step is that of its batches, per pixel because batches differ in size, without loading,
    validation and checkpoints. A step may be slow for other reasons, such as larger images or an overheated processor,
    but then no thread waits for a core. The CPU time of the threads is no indicator: OpenMP threads spin while they
    wait for a thread that has no core.

    clock: returns seconds. waited: returns the seconds that the threads have waited for a core so far; None if unknown.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        waited: Callable[[], float | None] = seconds_waited_for_cores,
    ) -> None:
        self._clock, self._waited = clock, waited
        self._watches = False
        self._step = 0
        self._begun = 0.0  # start of a batch
        self._seconds, self._pixels = 0.0, 0  # of an optimiser step
        self._fastest = float("inf")  # seconds per pixel
        self._times: list[float] = []  # seconds per pixel of up to `_STEPS` steps
        self._total = 0.0  # seconds of these steps
        self._since = (0.0, 0.0)  # the start of these steps, and the seconds waited for cores until then
        self._slow_seconds = 0.0

    def start(self, trainer: lightning.Trainer) -> None:
        """Begins a training."""
        on_cpu = trainer.strategy.root_device.type == "cpu" and trainer.is_global_zero
        self._watches = on_cpu and self._waited() is not None
        self._step = trainer.global_step

    def begin_batch(self) -> None:
        """Notes the time before a batch."""
        if self._watches:
            self._begun = self._clock()
            if not self._times and not self._pixels:
                self._since = self._begun, self._waited() or 0.0

    def end_batch(self, trainer: lightning.Trainer, batch: Batch) -> None:
        """Adds the time of a batch, and warns after enough slow steps."""
        if not self._watches:
            return
        self._seconds += self._clock() - self._begun
        self._pixels += sum(view["images"].numel() for view in (batch, *batch.get("other_views", ())))
        if trainer.global_step == self._step:  # gradients accumulate
            return
        self._times.append(self._seconds / self._pixels)
        self._total += self._seconds
        self._step, self._seconds, self._pixels = trainer.global_step, 0.0, 0
        self._fastest = min(self._fastest, self._times[-1])
        if len(self._times) == _STEPS:
            self._judge(trainer)
            self._times, self._total = [], 0.0

    def _judge(self, trainer: lightning.Trainer) -> None:
        since, waited = self._since
        waited = ((self._waited() or 0.0) - waited) / (self._clock() - since)
        slower, threads = statistics.median(self._times) / self._fastest, torch.get_num_threads()
        slow = (slower >= _SLOWER and waited >= _WAITED) or waited >= _WAITED_MOSTLY * threads
        self._slow_seconds = self._slow_seconds + self._total if slow else 0.0
        if self._slow_seconds < _SUSTAINED:
            return
        self._watches = False
        workers, processes = getattr(trainer.train_dataloader, "num_workers", 0), trainer.world_size
        own = (
            f", or its own {counted(processes, 'process')} with data.num_workers={workers},"
            if workers or processes > 1
            else ""
        )
        times = f", and steps take {slower:.1f} times as long as the fastest one" if slower >= _SLOWER else ""
        alone = (
            " Or stop and resume with OMP_NUM_THREADS=1, so that no thread waits for another." if threads > 1 else ""
        )
        warnings.warn(
            f"The {threads} threads of the training wait for a core, together {waited:.1f} s per second{times}: other "
            f"programs{own} use these cores. Fix: end them.{alone}",
            stacklevel=2,
        )
