"""Signals that stop a training, synchronised between processes."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_only  # Lightning itself takes seconds to import
from torch import distributed

_MESSAGE = "Stopping after this step or the current validation."
_AGAIN = " Press Ctrl-C again to stop immediately."
_REQUEUE = getattr(signal, "SIGUSR1", signal.SIGTERM)  # Windows has neither it nor SLURM


class Interrupted(Exception):  # noqa: N818  # not an error
    """A signal was received; see `StopSignals.interrupting`."""


class StopSignals:
    """Records Ctrl-C (SIGINT), SIGTERM (SLURM, docker stop, timeout) and, under SLURM, SIGUSR1, sent before the time
    limit. A second Ctrl-C raises KeyboardInterrupt.

    A signal that the parent process ignores, such as SIGINT in a background job of a script, stays ignored. Inside the
    context manager, SIGUSR1 is handled from the start: before the first step it requeues the job and ends the process
    immediately, because there is nothing to save. `install` adds the other signals.

    received: the number of the first signal, 0 for none. begun: whether the first step is complete.
    """

    def __init__(self) -> None:
        self.received = 0
        self.begun = False
        self._interrupts = False
        self._previous: dict[int, Any] = {}
        self._group: Any = None

    def __enter__(self) -> "StopSignals":
        self._handle(_REQUEUE)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous.clear()

    def install(self) -> None:
        """Installs all handlers. May be called repeatedly."""
        self._handle(signal.SIGINT, signal.SIGTERM, _REQUEUE)

    def _handle(self, *numbers: int) -> None:
        """Installs handlers, except outside of the main thread, where Python does not allow it."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in numbers:
            if number == _REQUEUE and "SLURM_JOB_ID" not in os.environ:
                continue
            previous = self._previous.setdefault(number, signal.getsignal(number))
            if previous != signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Context manager in which a signal raises Interrupted."""
        self._interrupts = True
        try:
            yield
        finally:
            self._interrupts = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == _REQUEUE and not self.begun:
            rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
            if getattr(rank_zero_only, "rank", int(rank)) == 0:
                _say(requeue())
            raise SystemExit(128 + number)
        first, self.received = not self.received, self.received or number
        if self._interrupts:
            raise Interrupted(f"{signal.Signals(number).name} was received")
        if first:
            _say(f"\n{_MESSAGE}{_AGAIN if number == signal.SIGINT else ''}")

    def agree(self, *flags: bool) -> tuple[int, tuple[bool, ...]]:
        """Returns the received signal and rank 0's flags, the same in all processes. All must call it at the same step.

        Uses a small all-reduce on the CPU, without synchronisation of the accelerator; none with one process.
        """
        if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
            return self.received, flags
        if self._group is None:
            self._group = distributed.new_group(backend="gloo")
        sent = flags if distributed.get_rank() == 0 else (False,) * len(flags)
        state = torch.tensor([self.received, *sent], dtype=torch.int64)
        distributed.all_reduce(state, op=distributed.ReduceOp.MAX, group=self._group)
        number, *agreed = map(int, state.tolist())
        if number:  # otherwise a signal that arrived meanwhile is kept for the next step
            self.received = number
        return number, tuple(map(bool, agreed))


def _say(text: str) -> None:
    with suppress(OSError):  # a full disk
        print(text, file=sys.stderr, flush=True)


def requeue() -> str:
    """Requeues this SLURM job. Returns the result as one line of text."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        result = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"SLURM job {job} was not requeued: {error}."
    if result.returncode:
        return (
            f"SLURM job {job} was not requeued: scontrol reported {result.stderr.strip() or result.stdout.strip()!r}."
        )
    return f"SLURM job {job} is requeued."
