"""Commands in forked processes, which do not import torch again: one, or two as torchrun or SLURM starts them."""

import importlib
import multiprocessing
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from densevit.cli import main

linux = pytest.mark.skipif(sys.platform != "linux", reason="gloo, forks and signals as Linux has them")


def child(work: Callable[[], object]) -> multiprocessing.Process:
    """A forked process, which needs no imports: Lightning, which takes seconds to import, is imported before."""
    importlib.import_module("densevit.training.run.fit")

    def run() -> None:
        torch.set_num_threads(1)  # OpenMP's other threads do not survive a fork
        work()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def wait_for(path: Path, process: multiprocessing.Process, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert path.exists()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def started_by_torchrun(rank: int) -> dict[str, str]:
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip


def started_by_slurm(rank: int) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
    }  # fmt: skip


class Ended(NamedTuple):
    """A process that has ended: its exit code and what it has printed."""

    code: int | None
    output: str
    errors: str


class Command:
    """`densevit ARGUMENTS` in a folder.

    rank: of this process in a group. environment: further variables. path: folders of distributions, before the others
    on sys.path. delay: seconds before the command begins.
    """

    def __init__(
        self,
        *arguments: str,
        folder: Path,
        rank: int = 0,
        environment: Mapping[str, str] | None = None,
        path: Sequence[Path] = (),
        delay: float = 0,
    ) -> None:
        self.printed = [folder / f"{name}-{rank}.txt" for name in ("stdout", "stderr")]

        def run() -> None:
            rank_zero_only.rank = rank
            os.environ |= {"OMP_NUM_THREADS": "1", **(environment or {})}
            sys.path[:0] = map(str, path)
            importlib.invalidate_caches()
            sys.stdout, sys.stderr = (file.open("w", buffering=1) for file in self.printed)
            for number, stream in ((1, sys.stdout), (2, sys.stderr)):
                os.dup2(stream.fileno(), number)
            warnings.resetwarnings()  # pytest's
            warnings.showwarning = lambda *given: sys.stderr.write(warnings.formatwarning(*given[:4]))
            os.chdir(folder)
            time.sleep(delay)
            sys.exit(main(arguments))

        self.process = child(run)

    def ended(self, seconds: float = 200) -> Ended:
        """Waits for the process, and kills it if it does not end in time."""
        self.process.join(seconds)
        self.process.kill()
        self.process.join()
        return Ended(self.process.exitcode, *(file.read_text() for file in self.printed))


def group(
    *arguments: str,
    folder: Path,
    launcher: Callable[[int], dict[str, str]] = started_by_torchrun,
    path: Sequence[Path] = (),
    delay: float = 0,
) -> list[Command]:
    """Starts a command in two processes. launcher: the variables of a rank. delay: of the second process."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
    return [
        Command(
            *arguments, folder=folder, rank=rank, environment={**address, **launcher(rank)}, path=path,
            delay=rank * delay,
        )
        for rank in range(2)
    ]  # fmt: skip


def run_together(*arguments: str, folder: Path, path: Sequence[Path] = ()) -> Ended:
    """Runs a command in two processes, and returns what the first one prints."""
    ended = [command.ended() for command in group(*arguments, folder=folder, path=path)]
    for process in ended:
        assert process.code == 0, process.errors
    return ended[0]


def in_two_processes(work: Callable[[int], object], folder: Path) -> None:
    """Runs `work(rank)` in two forked processes, with the variables of torchrun."""
    port = str(free_port())

    def process(rank: int) -> None:
        rank_zero_only.rank = rank
        sys.stderr = (folder / f"errors-{rank}").open("w", buffering=1)
        os.environ |= {
            **started_by_torchrun(rank), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        work(rank)

    processes = [child(lambda rank=rank: process(rank)) for rank in range(2)]
    for one in processes:
        one.join(300)
    errors = [(folder / f"errors-{rank}").read_text() for rank in range(2)]
    assert [one.exitcode for one in processes] == [0, 0], "\n".join(errors)
