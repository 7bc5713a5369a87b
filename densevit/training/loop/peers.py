"""Failure handling of distributed processes: if one ends, the others end within seconds, with a message that names it.

Lightning's observer kills rank 0 without a message, and gloo's errors in the others name only an address.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import distributed

from densevit.errors import DensevitError, TrainingError, one_line

_PEER_ERROR = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket", re.IGNORECASE)
_EXIT_CODE = 2  # of processes that end because another has ended
_EXIT_WAIT = 3.0  # seconds until a process that has closed its connections has exited
_GRACE = 10.0  # seconds for the main thread to report a failed process itself


class PeerLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher of one process per device, with an observer that reports a failed process."""

    observer: "ChildObserver | None" = None

    def launch(self, function: Any, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        if not (self.procs or self.cluster_environment.creates_processes_externally):
            self._call_children_scripts()
            self.observer = ChildObserver(self.procs)
            self.observer.start()
        return function(*args, **kwargs)


class ChildObserver(threading.Thread):
    """Ends this process if a child has failed and the main thread does not react because it waits for the child in a
    GPU operation."""

    def __init__(self, children: Sequence["subprocess.Popen[bytes]"]) -> None:
        super().__init__(daemon=True, name="child-observer")
        self.children = children
        self.finished = threading.Event()

    def run(self) -> None:
        while not self.finished.wait(0.5):
            failed = {rank: child.poll() for rank, child in enumerate(self.children, 1) if child.poll()}
            if failed and not self.finished.wait(_GRACE):
                print(_report(failed, len(self.children) + 1), file=sys.stderr, flush=True)
                for child in self.children:
                    child.kill()
                os._exit(_EXIT_CODE)


class Peers(lightning.Callback):
    """The host and process id of each rank, which the processes exchange before they begin."""

    def __init__(self) -> None:
        self.processes: list[tuple[str, int]] = []  # host and process id, by rank

    def setup(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        if trainer.world_size > 1:
            processes: list[Any] = [None] * trainer.world_size
            distributed.all_gather_object(processes, (socket.gethostname(), os.getpid()))
            self.processes = processes

    def ended(self) -> list[int]:
        """Returns the ranks on this machine whose process has ended. Waits a few seconds if none has."""
        until = time.monotonic() + _EXIT_WAIT
        host = socket.gethostname()
        while True:
            ended = [
                rank
                for rank, (machine, process) in enumerate(self.processes)
                if machine == host and not _is_running(process)
            ]
            if ended or time.monotonic() > until:
                return ended
            time.sleep(0.05)


def prepare_launcher(trainer: lightning.Trainer) -> None:
    """Replaces Lightning's launcher of subprocesses, if the trainer uses it, by `PeerLauncher`."""
    strategy = trainer.strategy
    if type(strategy.launcher) is _SubprocessScriptLauncher:
        launcher = strategy.launcher
        strategy._launcher = PeerLauncher(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)


@contextmanager
def watching(trainer: lightning.Trainer) -> Iterator[None]:
    """Replaces the error of a collective operation by TrainingError if a process has ended.

    The first remaining process of each machine raises it; the others exit with the same code and without a message.
    KeyboardInterrupt, which Lightning converts to SystemExit, is raised as such.
    """
    peers = Peers()
    trainer.callbacks.insert(0, peers)  # type: ignore[attr-defined]  # set by a connector
    try:
        yield
    except DensevitError:
        raise
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        launcher = trainer.strategy.launcher
        if trainer.world_size == 1 or not _PEER_ERROR.search(str(error)):
            raise
        ended = peers.ended()
        if not ended and len({host for host, _ in peers.processes}) <= 1:
            raise  # all processes are on this machine and running: an error of the collective operation itself
        if distributed.is_initialized() and distributed.get_backend() == "gloo":
            distributed.destroy_process_group()  # notifies the next process in the ring before this one ends
        codes = dict.fromkeys(ended)
        if isinstance(launcher, PeerLauncher):
            codes |= {rank: child.poll() for rank, child in enumerate(launcher.procs, 1) if child.poll()}
            for child in launcher.procs:
                child.terminate()
        here = [rank for rank, (host, _) in enumerate(peers.processes) if host == socket.gethostname()]
        first = next((rank for rank in here if rank not in codes), trainer.global_rank)
        if trainer.global_rank != first:
            time.sleep(1)
            raise SystemExit(_EXIT_CODE) from None
        raise TrainingError(_report(codes, trainer.world_size, one_line(error))) from None
    finally:
        launcher = trainer.strategy.launcher
        if isinstance(launcher, PeerLauncher) and launcher.observer is not None:
            launcher.observer.finished.set()


def _report(codes: "dict[int, int | None]", count: int, error: str = "") -> str:
    """Formats the ended processes in one line. codes: the exit code of each ended rank as in Popen; None if unknown.
    error: the message of the collective operation, the only information on another machine."""
    if not codes:
        return (
            f"A process on another machine, one of {count}, has ended or is unreachable ({error}). The others end too."
        )
    ends = []
    for rank, code in sorted(codes.items()):
        how = "has ended; its message, if any, is above"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            how += ", which the system sends when memory runs out" if -code == signal.SIGKILL else ""
        elif code:
            how = f"ended with exit code {code}; its message is above"
        ends.append(f"Process {rank} of {count} (counted from 0) {how}.")
    return f"{' '.join(ends)} The others end too."


def _is_running(process: int) -> bool:
    """Whether a process is running. A zombie, which its parent has not reaped, is not."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's process, or a system without /proc
    return state not in "ZX"
