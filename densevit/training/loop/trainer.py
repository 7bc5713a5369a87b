"""Builds Lightning's Trainer from the config section `trainer`, and writes its checkpoints."""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO

from densevit.atomic_io import replaced_file
from densevit.config import TrainerSection
from densevit.errors import ConfigError, TrainingError
from densevit.training.loop.sharding import STRATEGY, ShardedStrategy
from densevit.training.loop.training_precision import trainer_arguments
from densevit.weights.state_dict_io import write_torch


def build_trainer(section: TrainerSection, **settings: Any) -> lightning.Trainer:
    """Builds a Trainer that writes no files. settings: other arguments of Lightning's Trainer.

    Raises ConfigError for missing devices, for devices that do not support the strategy or `sync_batchnorm`, and if
    each of torchrun's processes would run alone.
    """
    if section.strategy == STRATEGY and section.accelerator in ("mps", "tpu"):
        raise ConfigError(
            f"trainer.strategy={STRATEGY}: trainer.accelerator={section.accelerator} is not supported. Fix: set "
            "trainer.strategy=auto."
        )
    try:
        trainer = lightning.Trainer(
            accelerator=section.accelerator,
            devices=section.devices,
            num_nodes=section.num_nodes,
            strategy=ShardedStrategy() if section.strategy == STRATEGY else section.strategy,
            sync_batchnorm=section.sync_batchnorm,
            **trainer_arguments(section.precision, section.accelerator),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            **settings,
        )
    except Exception as error:  # Lightning raises errors of many types
        reason = " ".join(str(error).split()) or type(error).__name__
        devices = f"{torch.accelerator.device_count()} {torch.accelerator.current_accelerator()}"
        available = f"{devices} besides the CPU" if torch.accelerator.is_available() else "a CPU and no GPU"
        raise ConfigError(
            f"trainer.accelerator={section.accelerator}, trainer.devices={section.devices}, "
            f"trainer.strategy={section.strategy}: {reason.rstrip('.')}. This machine has {available}. "
            "Fix: set each of the three keys to `auto`."
        ) from None
    launched = processes()
    total = launched["devices"] * launched["num_nodes"]
    if trainer.world_size < total:  # with a single-device strategy
        raise ConfigError(
            f"torchrun started {total} processes, and each would run alone with trainer.devices={section.devices}, "
            f"trainer.num_nodes={section.num_nodes}. Fix: set trainer.devices={launched['devices']} "
            f"trainer.num_nodes={launched['num_nodes']}, or start without torchrun."
        )
    if section.sync_batchnorm and trainer.strategy.root_device.type != "cuda":
        raise ConfigError(
            f"trainer.sync_batchnorm=true: torch synchronises batch norm on NVIDIA GPUs only, and this run is on "
            f"{trainer.strategy.root_device.type}. Fix: set trainer.sync_batchnorm=false."
        )
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # XLA has another
        trainer.strategy.checkpoint_io = DirectCheckpointIO()
    return trainer


def processes() -> dict[str, Any]:
    """The device keys of the config section `trainer` for torchrun's processes, or for one device."""
    if not TorchElasticEnvironment.detect():
        return {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    total = int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_WORLD_SIZE", total))
    return {"devices": local, "num_nodes": total // local, "strategy": "ddp" if total > 1 else "auto"}


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints directly to their folder. Lightning's default writes to TMPDIR first, which may be small."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a temporary file and renames it once it is complete, so that a failure keeps the previous checkpoint.

        Raises TrainingError if it cannot be written, for example on a full disk.
        """
        path = Path(path)
        try:
            with replaced_file(path) as temporary:
                write_torch(checkpoint, temporary)
        except OSError as error:
            previous = " The previous checkpoint is unchanged." if path.is_file() else ""
            raise TrainingError(f"{path} cannot be written: {error.strerror}.{previous}") from None
