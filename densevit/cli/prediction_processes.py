"""The processes of `densevit predict`: which part one predicts on which device; or one for each device."""

import os
import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from densevit.atomic_io import sigterm_unwinds
from densevit.errors import DensevitError
from densevit.inference.loading import device_of
from densevit.inference.prediction_folder import parts_of

_RANKS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))


class Process(NamedTuple):
    """This process among those of torchrun or srun: its number, from 0, how many there are, and its number on its
    machine."""

    rank: int = 0
    total: int = 1
    local: int = 0


def this_process() -> Process:
    """Reads the variables that torchrun or srun have set for this process."""
    for rank, count, local in _RANKS:
        if rank in os.environ and count in os.environ:
            return Process(int(os.environ[rank]), int(os.environ[count]), int(os.environ.get(local, 0)))
    return Process()


def devices_of(name: str, count: int) -> list[torch.device]:
    """Returns the devices that --device names, at least so many: all NVIDIA GPUs of this machine, if it has no number.
    Raises DensevitError if there are fewer."""
    try:
        device = device_of(name)
    except DensevitError as wrong:
        raise DensevitError(f"--{wrong}") from None
    if device.type != "cuda":
        return [device] * count
    devices = [torch.device("cuda", n) for n in range(torch.cuda.device_count())] if device.index is None else [device]
    if count > len(devices):
        raise DensevitError(
            f"--devices is {count}, but --device {name} is {len(devices)} GPU. Fix: name as many as it has."
        )
    return devices


def predict_on_devices(args: Namespace, images: int, devices: Sequence[torch.device], names: str) -> int:
    """Starts a process for each device, and waits for all. Returns the highest exit status.

    images: their number. names: the list on stdin.
    """
    command = [sys.executable, "-m", "densevit", *shlex.split(args.command)[1:], "--devices", "1", "--quiet"]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.devices))}
    children: list[subprocess.Popen[str]] = []
    try:
        with sigterm_unwinds():
            for number, device in enumerate(devices[: args.devices], 1):
                child = subprocess.Popen(
                    [
                        *command,
                        "--max-failed",
                        str(images),
                        "--part",
                        f"{number}/{args.devices}",
                        "--device",
                        str(device),
                    ],
                    env=threads | os.environ,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    encoding="utf-8",
                    start_new_session=True,  # Ctrl-C comes from this process only, once
                )
                children.append(child)
                assert child.stdin is not None
                with suppress(BrokenPipeError), child.stdin:  # a process that has failed
                    child.stdin.write(names)
            for _ in args.output.track(_predicted(children, args.out), f"Predicting on {args.devices} devices", images):
                pass
    finally:
        for child in children:
            child.send_signal(signal.SIGINT)  # nothing, if it has ended
        codes = [child.wait() for child in children]
    return max(codes)


def _predicted(children: Sequence["subprocess.Popen[str]"], out: Path) -> Iterator[int]:
    """Yields once for each image that is predicted, until all processes have ended."""
    done = 0
    while any(child.poll() is None for child in children):
        time.sleep(1)
        count = sum(part.counts.images for part in parts_of(out))
        yield from range(done, count)
        done = max(done, count)
