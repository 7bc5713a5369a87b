"""The processes of `densevit predict`: the part and device of this process, or a process per device."""

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
from densevit.inference.model_loading import device_of

_RANKS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))


def this_process() -> tuple[int, int, int]:
    """The rank of this process under torchrun or srun, the number of processes, and the rank on its machine."""
    for rank, count, local in _RANKS:
        if rank in os.environ and count in os.environ:
            return int(os.environ[rank]), int(os.environ[count]), int(os.environ.get(local, 0))
    return 0, 1, 0


def devices_of(name: str, count: int) -> list[torch.device]:
    """At least `count` devices for --device; a name without a number stands for all NVIDIA GPUs of this machine. Raises
    DensevitError if there are fewer."""
    try:
        device = device_of(name)
    except DensevitError as wrong:
        raise DensevitError(f"--{wrong}") from None
    if device.type != "cuda":
        return [device] * count
    devices = [torch.device("cuda", n) for n in range(torch.cuda.device_count())] if device.index is None else [device]
    if count > len(devices):
        raise DensevitError(f"--devices is {count}, but --device {name} is {len(devices)} GPU. Fix: lower --devices.")
    return devices


def predict_on_devices(args: Namespace, devices: Sequence[torch.device], names: str) -> int:
    """Predicts a part on each device, in a process each, and waits for all; the first process shows its progress.
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
                    start_new_session=True,  # only this process forwards Ctrl-C
                )
                children.append(child)
                assert child.stdin is not None
                with suppress(BrokenPipeError), child.stdin:  # a failed process
                    child.stdin.write(names)
            return max(child.wait() for child in children)
    finally:
        for child in children:
            child.send_signal(signal.SIGINT)  # no effect after its end
            child.wait()
