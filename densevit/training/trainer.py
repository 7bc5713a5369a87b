"""Lightning's Trainer for a config's `trainer` section, and the checkpoint files that it writes."""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from densevit.config import TrainerSection
from densevit.errors import ConfigError, TrainingError
from densevit.training.peers import prepare_launcher
from densevit.training.precision import trainer_arguments


def build_trainer(section: TrainerSection, **settings: Any) -> lightning.Trainer:
    """A Trainer on the section's devices, without files of its own. settings: other arguments of Lightning's.

    Raises ConfigError where these devices are not there, or do not go with the strategy.
    """
    arguments = trainer_arguments(section.precision, section.accelerator)
    arguments.setdefault("plugins", []).append(DirectCheckpointIO())
    try:
        trainer = lightning.Trainer(
            accelerator=section.accelerator,
            devices=section.devices,
            num_nodes=section.num_nodes,
            strategy=section.strategy,
            **arguments,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            **settings,
        )
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        found = f"{torch.accelerator.device_count()} {torch.accelerator.current_accelerator()}"
        there = f"{found} besides the CPU" if torch.accelerator.is_available() else "a CPU and no GPU"
        raise ConfigError(
            f"trainer.accelerator={section.accelerator}, trainer.devices={section.devices}, "
            f"trainer.strategy={section.strategy}: {reason.rstrip('.')}. This machine has {there}; "
            "`auto` for each of the three keys takes what is there."
        ) from None
    prepare_launcher(trainer)
    return trainer


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint where it belongs. Lightning's own stages it in TMPDIR, which may be small."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes the file beside its place and renames it once it is whole, so that the former one survives a failure.

        Raises TrainingError where it cannot be written, as on a full disk.
        """
        path = Path(path)
        unfinished = path.with_suffix(".partial")
        try:
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except (OSError, RuntimeError) as error:  # torch closes its archive with an error of its own
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            unfinished.unlink(missing_ok=True)
            kept = " The one before it is still there." if path.is_file() else ""
            raise TrainingError(f"{path} cannot be written: {cause.strerror}.{kept}") from None
