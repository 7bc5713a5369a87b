"""The processes that train together: when one of them ends, the others end within seconds, with one line that names it.

Lightning's own observer kills the first process without a word; what gloo raises in the others names an address.
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

from densevit.errors import DensevitError, TrainingError

_OF_A_PEER = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket", re.IGNORECASE)
_EXIT_CODE = 2  # of a process that ends because another one has
_EXIT_WAIT = 3.0  # seconds in which a process that has closed its connections is gone
_GRACE = 10.0  # seconds for the main thread to report a failed process itself


class PeerLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher of one process a device, with an observer that reports a failed process."""

    observer: "ChildObserver | None" = None

    def launch(self, function: Any, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        if not (self.procs or self.cluster_environment.creates_processes_externally):
            self._call_children_scripts()
            self.observer = ChildObserver(self.procs)
            self.observer.start()
        return function(*args, **kwargs)


class ChildObserver(threading.Thread):
    """Ends this process when one of its children has failed and the main thread, which may wait for that child on a
    GPU, has not noticed."""

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
    """Knows the process of each rank. Stands anywhere among the callbacks."""

    def __init__(self) -> None:
        self.processes: list[tuple[str, int]] = []  # host and process id, by rank

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if trainer.world_size > 1 and not self.processes:
            found: list[Any] = [None] * trainer.world_size
            distributed.all_gather_object(found, (socket.gethostname(), os.getpid()))
            self.processes = found

    def ended(self) -> list[int]:
        """The ranks on this machine whose process is gone, after a wait for one that is about to be."""
        until = time.monotonic() + _EXIT_WAIT
        host = socket.gethostname()
        while True:
            gone = [
                rank
                for rank, (machine, process) in enumerate(self.processes)
                if machine == host and not _is_running(process)
            ]
            if gone or time.monotonic() > until:
                return gone
            time.sleep(0.05)


def prepare_launcher(trainer: lightning.Trainer) -> None:
    """Gives a trainer that starts processes of its own the launcher above."""
    strategy = trainer.strategy
    if type(strategy.launcher) is _SubprocessScriptLauncher:
        own = strategy.launcher
        strategy._launcher = PeerLauncher(own.cluster_environment, own.num_processes, own.num_nodes)


@contextmanager
def watching(trainer: lightning.Trainer, peers: Peers) -> Iterator[None]:
    """Raises TrainingError in place of the error that a collective operation gives where a process has ended.

    One process on each machine says so, the first that is left; the others exit with the same code and no message.
    KeyboardInterrupt stays what it is: Lightning makes an exit of it.
    """
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
        if trainer.world_size == 1 or not _OF_A_PEER.search(str(error)):
            raise
        gone = peers.ended()
        if distributed.is_initialized() and distributed.get_backend() == "gloo":
            distributed.destroy_process_group()  # the next process in the ring hears of it while this one is there
        codes = dict.fromkeys(gone)
        if isinstance(launcher, PeerLauncher):
            codes |= {rank: child.poll() for rank, child in enumerate(launcher.procs, 1) if child.poll()}
            for child in launcher.procs:
                child.terminate()
        here = [rank for rank, (host, _) in enumerate(peers.processes) if host == socket.gethostname()]
        first = next((rank for rank in here if rank not in codes), trainer.global_rank)
        if trainer.global_rank != first:
            time.sleep(1)
            raise SystemExit(_EXIT_CODE) from None
        raise TrainingError(_report(codes, trainer.world_size)) from None
    finally:
        launcher = trainer.strategy.launcher
        if isinstance(launcher, PeerLauncher) and launcher.observer is not None:
            launcher.observer.finished.set()


def _report(codes: "dict[int, int | None]", count: int) -> str:
    """codes: what each ended rank left, as Popen gives it; None where that is not known."""
    if not codes:
        return (
            f"One of the {count} processes, on another machine, has ended or is out of reach; the others end with it."
        )
    ends = []
    for rank, code in sorted(codes.items()):
        how = "has ended; if it left a message, that stands above"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            how += ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
        elif code:
            how = f"ended with exit code {code}; its message stands above"
        ends.append(f"Process {rank} of {count} (numbered from 0) {how}.")
    return f"{' '.join(ends)} The others end too."


def _is_running(process: int) -> bool:
    """False also for a process that has ended and that its parent has not yet been asked about."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's, or a system without /proc
    return state not in "ZX"
