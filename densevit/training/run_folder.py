"""What a run leaves behind: checkpoints, the best model, its metrics, pictures and a report."""

import itertools
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytorch_lightning as lightning
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import distributed

from densevit.errors import ConfigError, DensevitError

_CHOSEN = "DENSEVIT_RUN_DIR"  # what a process, by its number, tells those that it starts


def choose_together(trainer: lightning.Trainer, choose: Callable[[], Path]) -> Path:
    """The run's folder, which the first of all processes chooses and tells the others, or why it could not.

    Processes that a launcher started (torchrun, srun) meet here first, so that a late one is waited for. Those that
    this one starts itself find the folder in their environment.
    """
    strategy = trainer.strategy
    environment = getattr(strategy, "cluster_environment", None)
    parent, _, chosen = os.environ.get(_CHOSEN, "").partition(" ")
    if isinstance(environment, LightningEnvironment) and environment.local_rank() > 0 and parent == str(os.getppid()):
        return Path(chosen)
    external = environment is not None and environment.creates_processes_externally
    if trainer.num_nodes > 1 and environment is not None:
        if not external and "MASTER_ADDR" not in os.environ:
            raise ConfigError(
                f"trainer.num_nodes={trainer.num_nodes}: nothing says where the other machines are. Start with "
                "torchrun --nnodes or srun on each of them, or set MASTER_ADDR, MASTER_PORT and NODE_RANK there."
            )
        if environment.local_rank() == 0:
            where = f"{environment.main_address}:{environment.main_port}"
            print(f"waiting up to 30 minutes for all {trainer.world_size} processes at {where}", flush=True)
    if external and trainer.world_size > 1:
        strategy.setup_environment()
        told: str | DensevitError = ""
        if trainer.is_global_zero:
            try:
                told = str(choose())
            except DensevitError as error:
                told = error
        told = strategy.broadcast(told)
        if isinstance(told, DensevitError):
            distributed.destroy_process_group()  # or its threads end the process with a signal
            raise told
        return Path(told)
    folder = choose()
    os.environ[_CHOSEN] = f"{os.getpid()} {folder.resolve()}"
    return folder


def choose(name: str, wanted: Path | None) -> Path:
    """Makes the run's folder: the one that was asked for, which has to be empty, or the next free `runs/NAME`."""
    try:
        if wanted is not None:
            if wanted.exists() and (not wanted.is_dir() or any(wanted.iterdir())):
                raise ConfigError(
                    f"--run-dir {wanted}: is not empty. Name a new folder, or go on with `train --resume {wanted}`."
                )
            wanted.mkdir(parents=True, exist_ok=True)
            return wanted
        for number in itertools.count(1):
            folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
            with suppress(FileExistsError):  # also by a training that began at the same time
                folder.mkdir(parents=True)
                return folder
    except OSError as error:
        folder = wanted or Path("runs") / name
        raise ConfigError(f"--run-dir {folder}: cannot be made: {error.strerror}. Name a folder elsewhere.") from None
    raise AssertionError  # numbers do not end
