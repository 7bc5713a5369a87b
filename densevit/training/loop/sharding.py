"""Fully sharded data parallelism (FSDP2; Zhao et al. 2023): each process holds a part of every parameter.

`trainer.strategy: fsdp2` uses Lightning's ModelParallelStrategy with all processes in one data-parallel group, and
`torch.distributed.fsdp.fully_shard` on the repeated blocks of the backbone, on the heads and on the entire model.
"""

import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from densevit import registry
from densevit.config import Config
from densevit.errors import ConfigError, TrainingError, one_line
from densevit.model import DenseModel, InferenceModel
from densevit.training.loop.training_precision import resolve

STRATEGY = "fsdp2"
METADATA = "meta.pt"  # Lightning's file of all values that are not tensors
_LEAST = 10_000  # parameters of the smallest block to shard; below, sharding costs more than it saves


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy with all processes in one data-parallel group, on different images.

    A checkpoint is a folder; each process writes its part by `torch.distributed.checkpoint`.
    """

    def setup_environment(self) -> None:
        """Initialises the process group, and the device mesh once there is a module."""
        if self.lightning_module is None:  # called earlier, to choose the run folder
            self._setup_distributed()
            return
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Writes a temporary folder and renames it after all processes have written their parts.

        Until then the previous folder is kept as PATH.previous, so that one of the two is always complete. Raises
        TrainingError in all processes if one of them cannot write, for example on a full disk.
        """
        path = Path(self.broadcast(filepath))
        unfinished, previous = path.with_suffix(".partial"), previous_of(path)
        if self.is_global_zero:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.barrier()
        try:
            super().save_checkpoint(checkpoint, unfinished)
        except CheckpointException as error:
            rank, (cause, _) = next(iter(error.failures.items()))
            kept = " The previous checkpoint is unchanged." if path.exists() else ""
            raise TrainingError(f"{path} cannot be written by process {rank}: {one_line(cause)}.{kept}") from None
        self.barrier()
        if self.is_global_zero:
            if path.exists():
                shutil.rmtree(previous, ignore_errors=True)
                path.rename(previous)
            unfinished.rename(path)
            shutil.rmtree(previous, ignore_errors=True)
        self.barrier()


def previous_of(path: Path) -> Path:
    """The path of the previous checkpoint while its successor is renamed."""
    return path.with_suffix(".previous")


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The values that are not tensors in a folder of `ShardedStrategy`, and the tensors' shapes by name.

    Raises ValueError if a file is shorter than its index states.
    """
    index = FileSystemReader(path).read_metadata()
    for part in index.storage_data.values():
        if (size := (path / part.relative_path).stat().st_size) < (end := part.offset + part.length):
            raise ValueError(f"{part.relative_path} has {size} bytes of {end}")
    content = torch.load(path / METADATA, map_location="cpu", weights_only=True)
    shapes = {
        name.removeprefix("state_dict."): tuple(entry.size)
        for name, entry in index.state_dict_metadata.items()
        if name.startswith("state_dict.") and isinstance(entry, TensorStorageMetadata)
    }
    return content, shapes


def check_sharding(config: Config) -> None:
    """Raises ConfigError for options that fully sharded training does not support."""
    section = config.trainer
    if section.strategy != STRATEGY:
        return
    precision, method = resolve(section.precision, section.accelerator), config.method.name
    optimizer, ddp = registry.load("optimizers", config.optim.name), "set trainer.strategy=ddp"
    for is_wrong, problem, fix in (
        (
            precision not in ("32", "32-true", "bf16-mixed"),
            f"trainer.precision={precision} is not supported",
            "set 32 or bf16-mixed",
        ),
        (
            not getattr(optimizer, "elementwise", True),
            f"optim.name={config.optim.name} updates complete matrices, but each process holds a part of them",
            "set optim.name=adamw, or trainer.strategy=ddp",
        ),
        (section.ema, f"trainer.ema={section.ema} is not supported", f"remove it, or {ddp}"),
        (section.compile, "trainer.compile=True is not supported", f"set it to false, or {ddp}"),
        (section.sync_batchnorm, "trainer.sync_batchnorm=True is not supported", f"set it to false, or {ddp}"),
        (
            method != "supervised",
            f"method.name={method} may call parts of the model separately, which is not supported",
            ddp,
        ),
    ):
        if is_wrong:
            raise ConfigError(f"trainer.strategy={STRATEGY}: {problem}. Fix: {fix}.")


def shard_model(model: DenseModel, mesh: DeviceMesh) -> None:
    """Shards the model over a one-dimensional mesh: each repeated block of the backbone, each head, and the rest.

    Blocks are gathered only for their forward and backward pass. Heads and the rest stay gathered until the end of the
    backward pass, because losses and predictions read their parameters too.
    """
    if isinstance(model, FSDPModule):
        return
    # The warning concerns outputs changed in place; losses and predictions change none.
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor")
    for block in repeated_blocks(model.backbone):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    for head in model.heads.values():
        if any(True for _ in head.parameters()):
            fully_shard(head, mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


def repeated_blocks(backbone: nn.Module) -> Iterator[nn.Module]:
    """Yields the entries of each ModuleList or Sequential with two or more entries of one class, inner entries first.

    Excludes entries that are such containers: backbones may iterate over them without calling them.
    """
    blocks: dict[int, nn.Module] = {}
    for container in reversed(list(backbone.modules())):
        if isinstance(container, nn.ModuleList | nn.Sequential):
            kinds = Counter(type(entry) for entry in container)
            for entry in container:
                size = sum(p.numel() for p in entry.parameters())
                if kinds[type(entry)] > 1 and size >= _LEAST and not isinstance(entry, nn.ModuleList | nn.Sequential):
                    blocks.setdefault(id(entry), entry)
    yield from blocks.values()


def gather(model: InferenceModel) -> None:
    """Gathers all parameters in each process until `scatter`, so that processes can evaluate different numbers of
    batches and windows without synchronisation."""
    for module in sharded_modules(model):
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()


def scatter(model: InferenceModel) -> None:
    """Frees the gathered parameters of other processes; see `gather`."""
    for module in sharded_modules(model):
        module.reshard()
    for module in sharded_modules(model.backbone):
        module.set_reshard_after_forward(True, recurse=False)


def sharded_modules(model: object) -> list[FSDPModule]:
    """The modules that `fully_shard` was applied to, outer modules first; none of an exported file."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return [module for module in modules if isinstance(module, FSDPModule)]


def full_tensor(x: Tensor) -> Tensor:
    """Returns the tensor; gathers a sharded tensor in each process. All processes must call this."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict; a sharded model's is gathered in rank 0's CPU memory, and empty in other processes. All processes
    must call this."""
    if not isinstance(model, FSDPModule):
        return dict(model.state_dict())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_model_state_dict(model, options=options))  # type: ignore[arg-type]  # all values are tensors
