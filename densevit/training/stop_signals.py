"""Signals that ask a training to stop, and the processes' agreement on them."""

import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

import torch
from torch import distributed

_MESSAGE = "Stopping after this step, or after the validation that is under way. Ctrl-C again stops at once."


class StopSignals:
    """Notes Ctrl-C (SIGINT), SIGTERM (SLURM, docker stop, timeout) and, under SLURM, SIGUSR1, which comes before the
    time limit. A second Ctrl-C raises KeyboardInterrupt.

    received: the number of the first signal that came to this process, 0 for none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, Any] = {}
        self._group: Any = None

    def install(self) -> None:
        """Takes over the signals. Nothing happens outside of the main thread, whose program handles them."""
        if threading.current_thread() is not threading.main_thread():
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if "SLURM_JOB_ID" in os.environ and hasattr(signal, "SIGUSR1"):
            numbers.append(signal.SIGUSR1)
        for number in numbers:
            previous = signal.signal(number, self._on_signal)
            self._previous.setdefault(number, previous)

    def restore(self) -> None:
        """Gives the signals back to whoever had them."""
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.received:
            self.received = number
            print(f"\n{_MESSAGE}", flush=True)

    def agree(self, *flags: bool) -> tuple[int, tuple[bool, ...]]:
        """The signal, and the flags of process 0, as all processes know them. Each calls this at the same steps.

        A small all-reduce on the CPU, which waits for no accelerator; nothing where there is one process.
        """
        if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
            return self.received, flags
        if self._group is None:
            self._group = distributed.new_group(backend="gloo")
        own = flags if distributed.get_rank() == 0 else (False,) * len(flags)
        state = torch.tensor([self.received, *own], dtype=torch.int64)
        distributed.all_reduce(state, op=distributed.ReduceOp.MAX, group=self._group)
        number, *agreed = state.tolist()
        self.received = int(number)
        return self.received, tuple(map(bool, agreed))


def requeue() -> str:
    """Puts this SLURM job back into the queue. Returns one line that says how that went."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"SLURM job {job} was not requeued: {error}."
    if done.returncode:
        return f"SLURM job {job} was not requeued: scontrol said {done.stderr.strip() or done.stdout.strip()!r}."
    return f"SLURM job {job} is requeued."
