"""The Trainer of a `DenseModule`: its options, its length, and the position at which it is resumed."""

import math

import pytorch_lightning as lightning
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy

from densevit.config import OptimSection
from densevit.data.loading.dataloader import Loader
from densevit.errors import ConfigError
from densevit.interfaces import Batch
from densevit.training.loop.budget import Budget
from densevit.training.loop.training_precision import CastsModelOnly, casting_model_only


def prepare_trainer(trainer: lightning.Trainer, stage: str) -> None:
    """Makes the Trainer cast the model only, at `setup`. Raises ConfigError for options with which training would be
    wrong."""
    trainer.strategy.precision_plugin = casting_model_only(trainer.precision_plugin)
    if stage != "fit":
        return
    strategy, plugin = trainer.strategy, trainer.precision_plugin
    name = type(strategy).__name__
    # also with FSDPStrategy and DeepSpeedStrategy
    if type(plugin).convert_input not in (Precision.convert_input, CastsModelOnly.convert_input):
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


def budget_of(trainer: lightning.Trainer, section: OptimSection) -> Budget:
    """The budget of a user's Trainer, whose steps are one pass; of 1 step if it has no end. Raises ConfigError if the
    schedule needs their number and there is no end."""
    images = images_per_step(trainer) if section.lr is None else 0
    steps = trainer.estimated_stepping_batches if trainer.limit_train_batches else 0
    if 0 <= steps < math.inf:  # -1: neither max_steps nor a loader with a length
        return Budget(int(steps), int(steps), images)
    if section.schedule == "constant" and not section.warmup:
        return Budget(1, 1, images)
    name = section.schedule if isinstance(section.schedule, str) else section.schedule.name
    raise ConfigError(
        f"optim.schedule={name} needs the number of optimiser steps, and this Trainer has no end; max_time is not a "
        "number of steps. Fix: set its max_steps or max_epochs, or optim.schedule: constant."
    )


def progress(trainer: lightning.Trainer, budget: Budget) -> float:
    """The share of the training that is done (`Head.set_progress`)."""
    if trainer.state.fn != "fit":
        return 1.0
    return min(1.0, (trainer.global_step - budget.shift) / budget.length) if budget.steps > 1 else 0.0


def resume_loader(trainer: lightning.Trainer, collected: int) -> list[Batch]:
    """Continues at the checkpoint's position in the epoch. Returns the batches of the incomplete step before it.

    collected: their number. They are read again if the loader is densevit's; other loaders cannot go back.
    """
    loop = trainer.fit_loop
    if loop._combined_loader_states_to_load:  # `optimizer_steps` built the loader before Lightning read them
        loop._combined_loader = None
        loop.setup_data()
    loader, fetcher = trainer.train_dataloader, loop._data_fetcher
    if not collected or not isinstance(loader, Loader) or fetcher is None or fetcher.iterator is None:
        return []
    state = loader.state_dict()
    loader.load_state_dict({**state, "position": state["position"] - collected})
    return [trainer.strategy.batch_to_device(next(fetcher.iterator)[0]) for _ in range(collected)]


def images_per_step(trainer: lightning.Trainer) -> int:
    """The number of images of an optimiser step over all processes. Raises ConfigError for a loader without batch
    size."""
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()
    loader = trainer.train_dataloader
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if not isinstance(size, int):
        raise ConfigError(
            "optim.lr_per_256: the training loader has no batch_size, so the learning rate cannot be scaled to it. "
            "Fix: set optim.lr instead."
        )
    return size * (getattr(loader, "batches_per_step", None) or trainer.accumulate_grad_batches) * trainer.world_size
