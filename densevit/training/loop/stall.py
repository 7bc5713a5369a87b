"""Reports a step that does not finish, with the call stack of each thread and what the step waits for."""

import sys
import threading
import time
import traceback
from collections.abc import Sequence
from types import FrameType

import pytorch_lightning as lightning

_OWN_LINES = 4  # number of innermost calls printed per thread
_LOADING = ("torch/utils/data/", "densevit/data/loading/")
_COLLECTIVE = ("torch/distributed/", "torch/nn/parallel/")
_LIBRARIES = ("/site-packages/", "/lib/python", "<frozen")


class StallReports:
    """Prints a report to stderr if no training or validation step has finished for a time. Training is not stopped.

    A background thread monitors the time of the last step. The interval doubles for further reports of the same stall.

    after: the seconds without a finished step until the first report.
    """

    def __init__(self, after: float) -> None:
        self.after = after
        self._finished = threading.Event()
        self._last = time.monotonic()
        self._steps = 0  # number of steps finished since the start
        self._rank = self._step = 0
        self._processes = 1

    def start(self, trainer: lightning.Trainer) -> None:
        """Starts the thread."""
        self._rank, self._processes, self._steps = trainer.global_rank, trainer.world_size, -1
        self._main = threading.get_ident()
        self._finished.clear()
        self.step_finished(trainer)
        threading.Thread(target=self._watch, daemon=True, name="stall-reports").start()

    def step_finished(self, trainer: lightning.Trainer) -> None:
        """Notes that a step of a training or a validation has finished."""
        self._steps += 1
        self._last, self._step = time.monotonic(), trainer.global_step

    def stop(self) -> None:
        """Ends the thread."""
        self._finished.set()

    def _watch(self) -> None:
        reported, wait = self._last, self.after
        while not self._finished.wait(max(0.01, min(self._last + wait - time.monotonic(), self.after))):
            if self._last != reported:
                reported, wait = self._last, self.after
            if time.monotonic() - self._last >= wait:
                print(self._report(), file=sys.stderr, flush=True)
                wait *= 2

    def _report(self) -> str:
        frames = {ident: frame for ident, frame in sys._current_frames().items() if ident != threading.get_ident()}
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        main = _stack(frames.pop(self._main))
        seconds = time.monotonic() - self._last
        rank = f"Process {self._rank} of {self._processes}: " if self._processes > 1 else ""
        start = "" if self._steps else " The first step may take minutes, for example if trainer.compile compiles it."
        lines = [
            f"{rank}no step has finished for {seconds:.0f} s (trainer.stall_after), after optimiser step "
            f"{self._step:,}. It waits for {waits_for(main, self._processes)}. Training continues to wait.{start}",
            *_shown("main thread", main),
        ]
        for ident, frame in frames.items():
            lines += _shown(names.get(ident, "another thread"), _stack(frame))
        return "\n".join(lines)


def waits_for(stack: Sequence[traceback.FrameSummary], processes: int = 1) -> str:
    """Describes what a thread waits for. stack: its calls, outermost first."""
    files = [frame.filename.replace("\\", "/") for frame in stack]
    call = next((frame for frame in reversed(stack) if not any(part in frame.filename for part in _LIBRARIES)), None)
    place = "" if call is None else f": {call.name} in {call.filename}, line {call.lineno}"
    if any(part in file for file in files for part in _LOADING):
        return f"the data loader{place}"
    if any(part in file for file in files for part in _COLLECTIVE):
        return f"the other processes, in a collective operation{place}"
    if processes > 1 and any("torch/autograd/" in file for file in files[-3:]):
        return "the gradients of the other processes, in the backward pass"
    return f"its own code{place}" if call is not None else "a library"


def _stack(frame: FrameType) -> list[traceback.FrameSummary]:
    return list(traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False))[::-1]


def _shown(name: str, stack: Sequence[traceback.FrameSummary]) -> list[str]:
    """Formats the innermost calls."""
    calls = [f"    {frame.filename}:{frame.lineno} in {frame.name}" for frame in stack[-_OWN_LINES:]]
    return [f"  {name}:", *calls]
