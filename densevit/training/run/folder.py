"""The folder of a run."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import distributed

from densevit.atomic_io import LOCK, acquired_lock, check_writable, next_free_folder
from densevit.config import Config, PluginSection
from densevit.config.key_types import parts
from densevit.config.values import SOURCE, with_value
from densevit.errors import ConfigError, DensevitError, has_surrogates
from densevit.paths import user_path
from densevit.registry import option_types
from densevit.weights.resolving import sources_of

if TYPE_CHECKING:  # Lightning takes seconds to import
    import pytorch_lightning as lightning

_LEFT = {LOCK, "config.yaml.partial"}  # files of a run killed before it wrote its config
_WEIGHTS = ("model", "pytorch_model", "config")  # first letters of the files that a source of weights is read from
_RUN_DIR = "DENSEVIT_RUN_DIR"  # for child processes: this process's id and the folder


class RunFolder:
    """The folder of a run. Rank 0 chooses it and locks it against other runs.

    new: whether the folder was created now; False for a resumed run.
    """

    def __init__(self, path: Path, new: bool, lock: bool = True) -> None:
        """Opens an existing folder. Raises ConfigError if another process holds its lock."""
        self.path, self.new = path, new
        self._lock = acquired_lock(path, "stop it with Ctrl-C, which saves a checkpoint.") if lock else None

    @classmethod
    def open(cls, trainer: "lightning.Trainer", name: str, wanted: Path | None, resumed: bool) -> "RunFolder":
        """Creates the folder of a new run (`choose`), or opens a resumed run's; the same in all processes.

        Processes of an external launcher (torchrun, srun) synchronise here, and all raise rank 0's ConfigError. Child
        processes read the folder from an environment variable.
        """
        from pytorch_lightning.plugins.environments import LightningEnvironment

        environment = getattr(trainer.strategy, "cluster_environment", None)
        parent, _, path = os.environ.get(_RUN_DIR, "").partition(" ")
        is_child = isinstance(environment, LightningEnvironment) and environment.local_rank() > 0
        if is_child and parent == str(os.getppid()):
            return cls(Path(path), not resumed, lock=False)
        external = environment is not None and environment.creates_processes_externally
        if trainer.num_nodes > 1 and not external and "MASTER_ADDR" not in os.environ:
            raise ConfigError(
                f"trainer.num_nodes={trainer.num_nodes}: the address of the other machines is unknown. Fix: start with "
                "torchrun --nnodes or srun on each machine, or set MASTER_ADDR, MASTER_PORT and NODE_RANK there."
            )
        if external and trainer.world_size > 1:
            return cls._broadcast(trainer, name, wanted, resumed)
        folder = cls._open(name, wanted, resumed)
        os.environ[_RUN_DIR] = f"{os.getpid()} {folder.path.resolve()}"
        return folder

    @classmethod
    def _open(cls, name: str, wanted: Path | None, resumed: bool) -> "RunFolder":
        return cls(wanted, new=False) if resumed and wanted is not None else cls(choose(name, wanted), new=True)

    @classmethod
    def _broadcast(cls, trainer: "lightning.Trainer", name: str, wanted: Path | None, resumed: bool) -> "RunFolder":
        """Opens the folder in rank 0 and broadcasts its path or its error."""
        trainer.strategy.setup_environment()
        folder: RunFolder | None = None
        result: Path | DensevitError | None = None
        if trainer.is_global_zero:
            try:
                folder = cls._open(name, wanted, resumed)
                result = folder.path
            except DensevitError as error:
                result = error
        result = trainer.strategy.broadcast(result)
        if isinstance(result, DensevitError):
            distributed.destroy_process_group()  # otherwise the group's threads abort the process
            raise result
        assert result is not None
        return folder or cls(result, not resumed, lock=False)

    def close(self) -> None:
        """Unlocks the folder."""
        if self._lock is not None:
            self._lock.release()


def choose(name: str, wanted: Path | None) -> Path:
    """Creates the run folder: `wanted`, which must be new or unused, or the next free `runs/NAME`."""
    if has_surrogates(str(wanted or name)):
        raise ConfigError(
            f"--run-dir {wanted or name}: the name is not valid UTF-8, which model files need. Fix: name another "
            "folder."
        )
    with _creating(wanted or Path("runs") / name):
        if wanted is not None:
            check_unused(wanted)
            wanted.mkdir(parents=True, exist_ok=True)
            return wanted
        Path("runs").mkdir(exist_ok=True)
        return next_free_folder(Path("runs") / name)


def check_wanted(folder: Path | None) -> None:
    """Raises ConfigError if no run can start in a folder, or it cannot be created. Creates nothing. None: runs/NAME.

    Does nothing in a process of a launcher: rank 0 may have created the folder.
    """
    if any(name in os.environ for name in ("LOCAL_RANK", "SLURM_PROCID")):
        return
    if folder is not None:
        with _creating(folder):
            check_unused(folder)
            parent = next(path for path in folder.absolute().parents if os.path.lexists(path))
            os.stat(os.path.join(parent, ""))  # raises unless it is a folder
    check_writable(folder or Path("runs"), fix="Fix: name a folder with --run-dir DIR.")


@contextmanager
def _creating(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"--run-dir {folder}: cannot be created: {error.strerror}. Fix: name another folder."
        ) from None


def is_unused(folder: Path) -> bool:
    """Whether a run can start in a folder: an empty one, or one of a run killed before it wrote its config."""
    return folder.is_dir() and all(path.name in _LEFT for path in folder.iterdir())


def check_unused(folder: Path) -> None:
    """Raises ConfigError if the path exists and no run can start in it."""
    if folder.exists() and not is_unused(folder):
        raise ConfigError(
            f"--run-dir {folder}: is not empty. Fix: name a new folder, or use `train --resume {folder}`."
        )


def keep(config: Config, folder: Path, run: Path | None) -> None:
    """Links the weights that a config names into a run folder, or copies them if they are on another file system.

    run: the folder of the resumed run, with its kept weights. Published weights are left out.
    """
    for source in (*sources_of(config), *_sources_of_method(config.method).values()):
        path, copy = user_path(kept(source, run)), _copy_of(folder, source)
        if copy.exists() or not path.exists():
            continue
        partial = copy.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        files = [path] if path.is_file() else [file for file in path.iterdir() if file.name.startswith(_WEIGHTS)]
        for file in filter(Path.is_file, files):
            try:
                os.link(file.resolve(), partial / file.name)
            except OSError:
                shutil.copyfile(file, partial / file.name)
        partial.rename(copy)


def kept(source: str, run: Path | None) -> str:
    """The file or folder of weights that a run has kept; without it, the source itself."""
    if run is None or not (copy := _copy_of(run, source)).exists():
        return source
    file = copy / Path(source).name
    return str(file if file.is_file() else copy)


def kept_options(section: PluginSection, run: Path | None) -> dict[str, Any]:
    """The options of a method with the weights that a run has kept, such as its teacher's."""
    options = section.options
    for key, source in _sources_of_method(section).items():
        options = with_value(options, key, kept(source, run))
    return options


def _copy_of(folder: Path, source: str) -> Path:
    return folder / "sources" / hashlib.blake2b(source.encode(), digest_size=4).hexdigest()


def _sources_of_method(section: PluginSection) -> dict[tuple[str, ...], str]:
    """The sources of weights in a method's options by key: ("teacher",), if it is annotated as one, and those of
    sections, ("teacher", "weights")."""
    sources: dict[tuple[str, ...], Any] = {}
    annotations = option_types("methods", section.name)
    for name, value in section.options.items():
        if isinstance(value, Mapping):
            sources[name, "weights"] = value.get("weights")
        elif SOURCE in parts(annotations.get(name), inside=True):
            sources[(name,)] = value
    return {key: source for key, source in sources.items() if isinstance(source, str)}
