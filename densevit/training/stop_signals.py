"""Signals that stop a training, synchronised between processes."""

import os
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import Any

import torch
from torch import distributed

_MESSAGE = "Stopping after this step or the current validation."
_AGAIN = " Press Ctrl-C again to stop immediately."


class StopSignals:
    """Records Ctrl-C (SIGINT), SIGTERM (SLURM, docker stop, timeout) and, under SLURM, SIGUSR1, sent before the time
    limit. A second Ctrl-C raises KeyboardInterrupt.

    received: the number of the first signal, 0 for none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, Any] = {}
        self._group: Any = None

    def install(self) -> None:
        """Installs the handlers. Does nothing outside of the main thread, where Python does not allow it."""
        if threading.current_thread() is not threading.main_thread():
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if "SLURM_JOB_ID" in os.environ and hasattr(signal, "SIGUSR1"):
            numbers.append(signal.SIGUSR1)
        for number in numbers:
            previous = signal.signal(number, self._on_signal)
            self._previous.setdefault(number, previous)

    def restore(self) -> None:
        """Restores the previous handlers."""
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.received:
            self.received = number
            again = _AGAIN if number == signal.SIGINT else ""
            print(f"\n{_MESSAGE}{again}", file=sys.stderr, flush=True)

    def agree(self, *flags: bool) -> tuple[int, tuple[bool, ...]]:
        """Returns the received signal and rank 0's flags, the same in all processes. All must call it at the same step.

        A small all-reduce on the CPU, without synchronisation of the accelerator. One process needs no communication.
        """
        if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
            return self.received, flags
        if self._group is None:
            self._group = distributed.new_group(backend="gloo")
        sent = flags if distributed.get_rank() == 0 else (False,) * len(flags)
        state = torch.tensor([self.received, *sent], dtype=torch.int64)
        distributed.all_reduce(state, op=distributed.ReduceOp.MAX, group=self._group)
        number, *agreed = map(int, state.tolist())
        if number:  # else a signal that arrived meanwhile is kept for the next step
            self.received = number
        return number, tuple(map(bool, agreed))


def requeue() -> str:
    """Requeues this SLURM job. Returns one line that reports the result."""
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
