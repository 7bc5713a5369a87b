"""Writes and prunes a run's checkpoints, also at signals that stop it."""

import os
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import distributed

from densevit.atomic_io import atomic_folder, replaced_file
from densevit.training.loop.budget import Budget

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class StopSignals:
    """Context manager that records Ctrl-C (SIGINT), SIGTERM (docker stop, timeout, SLURM) and SIGUSR1 (SLURM before the
    time limit, by `--signal`). A second Ctrl-C raises KeyboardInterrupt.

    A signal that the parent process ignores, such as SIGINT in a background job of a script, stays ignored.

    received: the number of the first signal; 0: none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, Any] = {}
        self._group: Any = None

    def __enter__(self) -> "StopSignals":
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous.clear()

    def install(self) -> None:
        """Installs the handlers, except outside the main thread, where Python forbids it. May be called repeatedly."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            previous = self._previous.setdefault(number, signal.getsignal(number))
            if previous != signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.received:
            again = " Press Ctrl-C again to stop immediately." if number == signal.SIGINT else ""
            print(f"\nStopping after this step or the current validation.{again}", file=sys.stderr, flush=True)
        self.received = self.received or number

    def agree(self, *flags: bool) -> tuple[int, tuple[bool, ...]]:
        """Returns the received signal and rank 0's flags in all processes, which must call this at the same step.

        A small all-reduce on the CPU, without synchronising the accelerator; nothing with a single process.
        """
        if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
            return self.received, flags
        if self._group is None:
            self._group = distributed.new_group(backend="gloo")
        sent = flags if distributed.get_rank() == 0 else (False,) * len(flags)
        state = torch.tensor([self.received, *sent], dtype=torch.int64)
        distributed.all_reduce(state, op=distributed.ReduceOp.MAX, group=self._group)
        number, *agreed = map(int, state.tolist())
        if number:  # otherwise the next step sees a signal that arrived meanwhile
            self.received = number
        return number, tuple(map(bool, agreed))


class Stopped(Exception):  # noqa: N818  # not an error
    """Training stops because of a signal; the checkpoint is written."""


class CheckpointWriter(lightning.Callback):
    """Writes `checkpoints/last.ckpt` and keeps previous checkpoints as `step-N.ckpt` of optimiser step N, in case the
    last one is damaged. After a signal, writes a checkpoint and stops training.

    folder: the run folder. checkpoint_every: interval between checkpoints, in addition to checkpoints after
    validations: optimiser steps as an int, or seconds as a float; None: only after validations. keep: the number of
    checkpoints to keep, including `last.ckpt`; None: all. signals: reports received signals.
    """

    def __init__(
        self,
        folder: Path,
        budget: Budget,
        checkpoint_every: int | float | None,
        keep: int | None,
        signals: StopSignals,
    ) -> None:
        self.folder, self.budget = folder, budget
        self.checkpoint_every, self.keep, self.signals = checkpoint_every, keep, signals
        self._saved_step: int | None = None  # the step of last.ckpt
        self._stopping = self._due = False
        self._saved_at = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.signals.install()  # again: Lightning has installed its own handlers
        self._saved_at = time.monotonic()
        resumed_from = trainer.ckpt_path
        if resumed_from is not None and Path(resumed_from).name == "last.ckpt":
            self._saved_step = trainer.global_step

    # ---- checkpoints ----

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        received, (due,) = self.signals.agree(self._is_due(step))
        self._due = self._due or due
        stopped = trainer.should_stop and step < self.budget.steps  # by another callback
        # At the end of an epoch or before a validation, the checkpoint is written later: Lightning cannot resume here.
        if trainer.is_last_batch or self.budget.validates_after(step):
            return
        if received or self._due or stopped:
            self._save(trainer)
            self._stopping = bool(received)

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        if self._stopping:  # the step of the checkpoint is complete only now
            raise Stopped

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.is_last_batch:
            self._save(trainer)
            self._stopping = bool(self.signals.agree()[0])

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_last_batch:  # the budget ends within an epoch: saved after validation
            return
        received, step = self.signals.agree()[0], trainer.global_step
        if self._due or received or trainer.should_stop or self.budget.validates_after(step):
            self._save(trainer)
        if received and step < self.budget.steps:
            raise Stopped

    def _is_due(self, step: int) -> bool:
        if isinstance(self.checkpoint_every, float):
            return time.monotonic() - self._saved_at >= self.checkpoint_every
        return self.checkpoint_every is not None and step % self.checkpoint_every == 0

    def _save(self, trainer: lightning.Trainer) -> None:
        path, step = self.folder / "checkpoints" / "last.ckpt", trainer.global_step
        if trainer.is_global_zero and self._saved_step not in (None, step):
            _keep_as(path, path.with_name(f"step-{self._saved_step}.ckpt"))
        trainer.save_checkpoint(path)
        self._due, self._saved_at, self._saved_step = False, time.monotonic(), step
        if trainer.is_global_zero:
            self._prune(step)

    def _prune(self, step: int) -> None:
        """Removes the oldest checkpoints, and a numbered copy of the step of `last.ckpt`."""
        before = [path for path in numbered_checkpoints(self.folder) if step_of(path) < step]
        kept = before if self.keep is None else before[: self.keep - 1]
        for path in numbered_checkpoints(self.folder):
            if path not in kept:
                _remove(path)


def _keep_as(path: Path, name: Path) -> None:
    """Hard-links a checkpoint to a second name, or copies it if the file system has no hard links.

    The first name remains, so that a run that is killed now can be resumed. Makes no copy if the checkpoint is missing
    or the disk has no space.
    """
    _remove(name)
    for copy in (os.link, shutil.copyfile):
        with suppress(OSError):
            if path.is_file():
                with replaced_file(name) as file:
                    copy(path, file)
            else:  # a sharded checkpoint
                with atomic_folder(name) as folder:
                    shutil.copytree(path, folder, copy_function=copy, dirs_exist_ok=True)
            return


def _remove(checkpoint: Path) -> None:
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint, ignore_errors=True)
    else:
        checkpoint.unlink(missing_ok=True)


def numbered_checkpoints(run: Path) -> list[Path]:
    """The previous checkpoints, `step-N.ckpt`, newest first."""
    return sorted((run / "checkpoints").glob("step-*.ckpt"), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """N of `step-N.ckpt`; -1 for another name."""
    number = path.stem.removeprefix("step-")
    return int(number) if number.isdecimal() else -1
