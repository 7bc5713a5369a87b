"""Options of a user's Trainer that `DenseModule` does not support."""

import pytorch_lightning as lightning
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy

from densevit.errors import ConfigError
from densevit.training.loop.training_precision import CastsModelOnly


def check_trainer(trainer: lightning.Trainer) -> None:
    """Raises ConfigError for options with which training would be wrong, at `setup`."""
    strategy, plugin = trainer.strategy, trainer.precision_plugin
    name = type(strategy).__name__
    allowed = (Precision.convert_input, CastsModelOnly.convert_input)
    if type(plugin).convert_input not in allowed:  # also with FSDPStrategy and DeepSpeedStrategy
        raise ConfigError(
            f"Trainer: strategy={name}, precision={plugin.precision}: {type(plugin).__name__} casts the targets. Fix: "
            "set strategy=ddp, and precision=32-true, 16-mixed, bf16-mixed, 16-true, bf16-true or 64-true."
        )
    if (
        isinstance(strategy, ModelParallelStrategy)
        and strategy.device_mesh["data_parallel"].size() < trainer.world_size
    ):
        raise ConfigError(
            f"Trainer: strategy={name}: tensor parallelism is not supported. Fix: set data_parallel_size="
            f"{trainer.world_size} and tensor_parallel_size=1."
        )
    has_ddp = isinstance(strategy, DDPStrategy) and strategy.root_device.type == "cuda"
    if getattr(strategy, "_layer_sync", None) is not None and not has_ddp:
        raise ConfigError(
            f"Trainer: sync_batchnorm=True: batch norm is synchronised by ddp on NVIDIA GPUs only, and this is "
            f"{name} on {strategy.root_device.type}. Fix: set sync_batchnorm=False."
        )
