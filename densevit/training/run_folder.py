"""The folder of a run."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as lightning
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import distributed

from densevit.atomic_io import next_free_folder
from densevit.errors import ConfigError, DensevitError, has_surrogates

LOCK = ".lock"
_LEFT = {LOCK, "config.yaml.partial"}  # in the folder of a run that was killed before it wrote its config
_RUN_DIR = "DENSEVIT_RUN_DIR"  # set for child processes: the id of this process and the folder


def choose_together(trainer: lightning.Trainer, choose: Callable[[], Path]) -> Path:
    """Chooses the run's folder in the process of rank 0 and broadcasts it, or the error that it raised.

    Processes started by an external launcher (torchrun, srun) synchronise here. Child processes read the folder from
    their environment.
    """
    strategy = trainer.strategy
    environment = getattr(strategy, "cluster_environment", None)
    parent, _, folder_name = os.environ.get(_RUN_DIR, "").partition(" ")
    if isinstance(environment, LightningEnvironment) and environment.local_rank() > 0 and parent == str(os.getppid()):
        return Path(folder_name)
    external = environment is not None and environment.creates_processes_externally
    if trainer.num_nodes > 1 and environment is not None:
        if not external and "MASTER_ADDR" not in os.environ:
            raise ConfigError(
                f"trainer.num_nodes={trainer.num_nodes}: the address of the other machines is unknown. Fix: start with "
                "torchrun --nnodes or srun on each machine, or set MASTER_ADDR, MASTER_PORT and NODE_RANK there."
            )
        if environment.local_rank() == 0:
            where = f"{environment.main_address}:{environment.main_port}"
            print(
                f"waiting up to 30 minutes for all {trainer.world_size} processes at {where}",
                file=sys.stderr,
                flush=True,
            )
    if external and trainer.world_size > 1:
        strategy.setup_environment()
        result: str | DensevitError = ""
        if trainer.is_global_zero:
            try:
                result = str(choose())
            except DensevitError as error:
                result = error
        result = strategy.broadcast(result)
        if isinstance(result, DensevitError):
            distributed.destroy_process_group()  # otherwise its threads abort the process
            raise result
        return Path(result)
    folder = choose()
    os.environ[_RUN_DIR] = f"{os.getpid()} {folder.resolve()}"
    return folder


def choose(name: str, wanted: Path | None) -> Path:
    """Creates the run's folder: `wanted`, which must be unused or new, or else the next free `runs/NAME`."""
    if has_surrogates(str(wanted or name)):
        raise ConfigError(
            f"--run-dir {wanted or name}: the name is no UTF-8 text, as model files need. Fix: name another folder."
        )
    try:
        if wanted is not None:
            check_unused(wanted)
            wanted.mkdir(parents=True, exist_ok=True)
            return wanted
        Path("runs").mkdir(exist_ok=True)
        return next_free_folder(Path("runs") / name)
    except OSError as error:
        folder = wanted or Path("runs") / name
        raise ConfigError(
            f"--run-dir {folder}: cannot be created: {error.strerror}. Fix: name another folder."
        ) from None


def is_unused(folder: Path) -> bool:
    """Whether a run can begin in a folder: it is empty, or a run was killed in it before its config was written."""
    return folder.is_dir() and all(path.name in _LEFT for path in folder.iterdir())


def check_unused(folder: Path) -> None:
    """Raises ConfigError if the path exists and no run can begin in it."""
    if folder.exists() and not is_unused(folder):
        raise ConfigError(
            f"--run-dir {folder}: is not empty. Fix: name a new folder, or use `train --resume {folder}`."
        )
