"""Signals that stop a run, synchronised between processes."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

import torch
from torch import distributed

_NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


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
        for number in _NUMBERS:
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
