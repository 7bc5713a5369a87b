"""Progress bars and printed lines during training."""

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import RichProgressBar
from rich import get_console
from rich.console import Console

from densevit import progress
from densevit.progress import duration, speed
from densevit.terminal import escaping, notebook_bar
from densevit.training.loop.dense_module import DenseModule

CONSOLE: dict[str, Any] = {"soft_wrap": True}  # paths are not wrapped


class LogFile:
    """stdout or stderr as the file of a console. If writing fails, as on a full disk, it warns, discards the output and
    lets training continue."""

    def __init__(self, stderr: bool) -> None:
        self.stderr = stderr

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)

    def _stream(self) -> Any:
        stream = sys.stderr if self.stderr else sys.stdout
        return getattr(stream, "rich_proxied_file", stream)

    def write(self, text: str) -> int:
        return self._attempt(lambda stream: stream.write(text)) or len(text)

    def flush(self) -> None:
        self._attempt(lambda stream: stream.flush())

    def _attempt(self, work: Callable[[Any], Any]) -> Any:
        stream = self._stream()
        try:
            return work(stream)
        except BrokenPipeError:
            raise
        except OSError as error:
            with suppress(OSError):  # for later output and the rest of the buffer
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            name = "stderr" if self.stderr else "stdout"
            warnings.warn(f"{name} cannot be written: {error.strerror}. Training continues without it.", stacklevel=2)
        return None


class RemainingTime:
    """Estimates the time until the end of training from the steps so far and their validations."""

    def __init__(self) -> None:
        self._start = (0.0, 0)  # time and step

    def start(self, step: int) -> None:
        """Starts the measurement. step: the step at which training starts or resumes."""
        self._start = time.monotonic(), step

    def seconds(self, step: int, steps: int) -> float | None:
        """Returns the remaining seconds after `step` of `steps`; None before a few steps are measured."""
        since, first = self._start
        done = step - first
        return None if done < _STEPS_BEFORE_TIMING else (time.monotonic() - since) / done * (steps - step)


class TerminalBar(RichProgressBar):
    """Lightning's progress bar of an epoch in a terminal, without the version number, with the remaining time of the
    training and the time of day of its end."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.remaining = RemainingTime()

    def _init_progress(self, trainer: lightning.Trainer) -> None:
        before = self.progress
        super()._init_progress(trainer)
        if self.progress is not before:  # Lightning has recreated the global console
            escaping(get_console())

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.remaining.start(trainer.global_step)

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        shown = {name.rpartition("/")[2]: value for name, value in metrics.items() if name != "v_num"}
        budget = getattr(pl_module, "budget", None)
        left = None if budget is None else self.remaining.seconds(trainer.global_step, budget.steps)
        return shown if left is None else {**shown, "left": remaining_text(left)}


class NotebookBar(lightning.Callback):
    """A bar of the steps of a training in a notebook, with the loss."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._shown = 0.0  # when a loss was read

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, DenseModule) and pl_module.budget is not None
        steps = {"total": pl_module.budget.steps, "initial": trainer.global_step}
        self._bar = notebook_bar()(desc="Training", unit="step", disable=not trainer.is_global_zero, **steps)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self._shown >= _SECONDS_BETWEEN_LOSSES and "train/loss" in trainer.callback_metrics:
            self._shown = now
            self._bar.set_postfix(loss=f"{float(trainer.callback_metrics['train/loss']):.3f}", refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._bar is not None:
            self._bar.set_description("Validating")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._bar is not None:
            self._bar.set_description("Training")

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def remaining_text(seconds: float) -> str:
    """Formats a remaining time, as in "1:35 h, ends 14:20"; with the date if that is another day."""
    now = datetime.now()
    end = now + timedelta(seconds=seconds)
    minutes = round(seconds / 60)
    left = f"{minutes // 60}:{minutes % 60:02} h" if minutes >= 90 else f"{minutes or 'less than 1'} min"
    return f"{left}, ends {end:%H:%M}" if end.date() == now.date() else f"{left}, ends {end:%d %b %H:%M}"


_STEPS_BEFORE_TIMING = 3  # the first steps are slow: memory allocation, kernel selection
_TIMED_SECONDS = 5.0
_SECONDS_BETWEEN_LOSSES = 1.0  # reading one waits for the GPU


class ProgressLines(lightning.Callback):
    """Prints the estimated training time, and after each validation the step, the loss and the main metrics.

    Without a progress bar, it also prints a line every half minute.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.start = 0.0
        self.images = 0
        self._batches = 0
        self._timed_from: tuple[float, int] | None = None
        self._estimated = False
        self.remaining = RemainingTime()
        self._last = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.start, self.images = time.monotonic(), 0
        self._last = self.start
        self.remaining.start(trainer.global_step)
        self._batches, self._timed_from, self._estimated = 0, None, False

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DenseModule)
        self.images += len(pl_module.record.image_ids) * trainer.world_size
        if not trainer.is_global_zero:
            return
        if not self._estimated:
            self._estimate(trainer, pl_module)
        if self._is_due():
            assert pl_module.budget is not None
            step = f"step {trainer.global_step:,} of {pl_module.budget.steps:,}"
            self._print([step, *self._state(trainer), *self._left(trainer, pl_module)])

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        if trainer.is_global_zero and self._is_due():
            done, total = trainer.fit_loop.epoch_loop.val_loop.batch_progress.current.completed, trainer.num_val_batches
            self._print([f"validation: {done:,} of {sum(total):,.0f} batches"])

    def _is_due(self) -> bool:
        has_bar = self.console.is_terminal or self.console.is_jupyter
        return not has_bar and time.monotonic() - self._last >= progress.SECONDS_BETWEEN_LINES

    def _print(self, parts: list[str]) -> None:
        self._last = time.monotonic()
        self.console.print("  ".join(parts))

    def _estimate(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Prints the speed and the remaining time after a few seconds of measurement, unless fewer remain."""
        now = time.monotonic()
        if self._timed_from is None:
            self._batches += 1
            if self._batches == _STEPS_BEFORE_TIMING:
                self._timed_from = now, self.images
            return
        start, images = self._timed_from
        if now - start < _TIMED_SECONDS:
            return
        self._estimated, self._last = True, now
        assert isinstance(pl_module, DenseModule) and pl_module.budget is not None
        measured, budget = (self.images - images) / (now - start), pl_module.budget
        left = (budget.steps - trainer.global_step) * budget.images_per_step / measured
        if left >= _TIMED_SECONDS:
            self.console.print(f"{speed(measured)}: {duration(left)} left, without validations")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, DenseModule) and pl_module.validation.evaluators is not None
        if not trainer.is_global_zero:
            return
        parts = [f"epoch {trainer.current_epoch + 1}", f"step {trainer.global_step}"]
        training = trainer.state.fn == "fit"
        parts += self._state(trainer) if training else []
        for name, evaluator in pl_module.validation.evaluators.items():
            parts.append(f"{name}/{evaluator.main} {pl_module.validation.metrics[f'{name}/{evaluator.main}']:.3f}")
        self._print([*parts, *(self._left(trainer, pl_module) if training else [])])

    def _state(self, trainer: lightning.Trainer) -> list[str]:
        loss = trainer.callback_metrics.get("train/loss")
        measured = speed(self.images / (time.monotonic() - self.start))
        return [measured] if loss is None else [f"loss {float(loss):.3f}", measured]

    def _left(self, trainer: lightning.Trainer, pl_module: DenseModule) -> list[str]:
        left = None if pl_module.budget is None else self.remaining.seconds(trainer.global_step, pl_module.budget.steps)
        return [f"{duration(left)} left"] if left else []


class EvaluationProgress(lightning.Callback):
    """Shows the progress of an evaluation on stderr."""

    def __init__(self) -> None:
        self._bar: Iterator[int] = iter(())

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
