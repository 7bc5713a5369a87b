"""Progress bars and printed lines during training."""

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from pytorch_lightning.trainer.states import TrainerStatus
from rich import get_console
from rich.console import Console

from densevit import progress
from densevit.progress import duration, speed
from densevit.terminal import show
from densevit.training.callbacks.step_metrics import peak_memory
from densevit.training.loop.dense_module import DenseModule


class _ShortNames(ProgressBar):
    """Shows metrics by the last part of their name, without a version number."""

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {name.rpartition("/")[2]: value for name, value in metrics.items() if name != "v_num"}


class TerminalBar(_ShortNames, RichProgressBar):
    """Lightning's progress bar of an epoch in a terminal."""


class NotebookBar(_ShortNames, TQDMProgressBar):
    """Lightning's progress bar of an epoch in a notebook."""


_FIRST_SECONDS = 5.0  # until the first line
_ALMOST_FULL = 0.05  # available fraction of the memory
_MEMORY = Path("/proc/meminfo")
_STEPS_BEFORE_TIMING = 3  # the first steps are slow: memory allocation, kernel selection


class ProgressLines(lightning.Callback):
    """Prints the step, the loss, the speed, the peak memory and the remaining time: after a few seconds, and after each
    validation with the main metrics; without a progress bar, also every half minute.

    Warns if the first step fills the memory. Extrapolates the remaining time from the mean durations of a step and of a
    validation, once the first steps are over; until the first validation, without validations.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._first_step = trainer.global_step
        self._start_timing(trainer)
        self._due = time.monotonic() + min(_FIRST_SECONDS, progress.SECONDS_BETWEEN_LINES)  # time of the next line

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self._first_step:
            threading.Thread(target=self._watch_memory, args=(trainer,), daemon=True).start()

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: DenseModule, *_: Any) -> None:  # type: ignore[override]
        self._images += len(pl_module.record.image_ids) * trainer.world_size
        if trainer.global_step == self._first_step + _STEPS_BEFORE_TIMING:
            self._start_timing(trainer)
        if time.monotonic() >= self._due:
            self._print(trainer, self._state(trainer, pl_module))

    def on_validation_start(self, *_: Any) -> None:
        self._validations.append(-time.monotonic())

    def on_validation_batch_end(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        if time.monotonic() >= self._due:
            done, total = trainer.fit_loop.epoch_loop.val_loop.batch_progress.current.completed, trainer.num_val_batches
            self._print(trainer, [f"validation: {done:,} of {sum(total):,.0f} batches"])

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: DenseModule) -> None:  # type: ignore[override]
        self._validations[-1] += time.monotonic()
        metrics, evaluators = pl_module.validation.metrics, pl_module.validation.evaluators
        mains = [f"{name}/{evaluator.main}" for name, evaluator in evaluators.items()]
        shown = [f"{name} {metrics[name]:.3f}" for name in mains]
        self._print(trainer, [f"epoch {trainer.current_epoch + 1}", *self._state(trainer, pl_module), *shown])

    def _watch_memory(self, trainer: lightning.Trainer) -> None:
        """Prints a line if the first step fills the memory: the kernel then ends the process without a message."""
        while trainer.global_step == self._first_step and trainer.state.status == TrainerStatus.RUNNING:
            if available_memory() < _ALMOST_FULL:
                show(
                    f"Less than {_ALMOST_FULL:.0%} of the memory is available in the first step; the system may end "
                    "the process. Fix: a smaller data.batch_size, with trainer.accumulate for the same steps.",
                    self.console,
                )
                break
            time.sleep(0.1)

    def _start_timing(self, trainer: lightning.Trainer) -> None:
        self._since, self._images = (time.monotonic(), trainer.global_step), 0
        self._validations: list[float] = []  # their durations in seconds

    def _state(self, trainer: lightning.Trainer, module: DenseModule) -> list[str]:
        assert module.budget is not None
        seconds, done = time.monotonic() - self._since[0], trainer.global_step - self._since[1]
        left = module.budget.steps - trainer.global_step
        parts = [
            f"step {trainer.global_step:,} of {module.budget.steps:,}",
            f"loss {float(trainer.callback_metrics.get('train/loss', math.nan)):.3f}",
        ]
        if done:
            parts += [speed(self._images / seconds), f"{peak_memory(trainer.strategy.root_device) / 1e9:.1f} GB"]
        if not (done and left) or trainer.global_step <= self._first_step + _STEPS_BEFORE_TIMING:
            return parts
        pauses, count = sum(self._validations), len(self._validations)
        validation_share = pauses / max(count, 1) * module.budget.validations / module.budget.steps  # seconds per step
        rest = left * ((seconds - pauses) / done + validation_share)
        return [*parts, f"{duration(rest)} left{'' if count else ' without validation'}"]

    def _print(self, trainer: lightning.Trainer, parts: list[str]) -> None:
        has_bar = self.console.is_terminal or self.console.is_jupyter
        self._due = math.inf if has_bar else time.monotonic() + progress.SECONDS_BETWEEN_LINES
        if trainer.is_global_zero:
            show("  ".join(parts), self.console)


def available_memory() -> float:
    """The available fraction of the memory; 1 if unknown, without Linux."""
    text = _MEMORY.read_text(encoding="utf-8") if _MEMORY.exists() else "MemAvailable: 1\nMemTotal: 1"
    sizes = dict(line.split()[:2] for line in text.splitlines())
    return int(sizes["MemAvailable:"]) / int(sizes["MemTotal:"])


class EvaluationProgress(lightning.Callback):
    """Shows the progress of an evaluation on stderr."""

    _bar: Iterator[int] = iter(())

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        total = int(sum(trainer.num_val_batches))
        quiet = get_console().quiet or not trainer.is_global_zero
        self._bar = progress.track(range(total), "Evaluating", total, quiet)

    def on_validation_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        next(self._bar, None)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._bar = iter(())  # removes the bar
