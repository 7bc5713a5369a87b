"""The processes of `densevit predict`: which part one predicts on which device; or one for each device."""

import os
import shlex
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress

import torch

from densevit.atomic_io import sigterm_unwinds
from densevit.errors import DensevitError
from densevit.inference.loading import device_of

_RANKS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))


def this_process() -> tuple[int, int, int]:
    """The number of this process among those of torchrun or srun, from 0, how many there are, and its number on its
    machine."""
    for rank, count, local in _RANKS:
        if rank in os.environ and count in os.environ:
            return int(os.environ[rank]), int(os.environ[count]), int(os.environ.get(local, 0))
    return 0, 1, 0


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


def predict_on_devices(args: Namespace, devices: Sequence[torch.device], names: str) -> int:
    """Predicts a part on each device, in processes of their own, and waits for all; the first one shows its progress.
    Returns the highest exit status. names: the list on stdin."""
    command = [sys.executable, "-m", "densevit", *shlex.split(args.command)[1:], "--devices", "1"]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.devices))}
    children: list[subprocess.Popen[str]] = []
    try:
        with sigterm_unwinds():
            for number, device in enumerate(devices[: args.devices], 1):
                part = ["--part", f"{number}/{args.devices}", "--device", str(device), "--max-failed", str(sys.maxsize)]
                child = subprocess.Popen(
                    [*command, *part, *["--quiet"] * (number > 1)],
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
            return max(child.wait() for child in children)
    finally:
        for child in children:
            child.send_signal(signal.SIGINT)  # nothing, if it has ended
            child.wait()
