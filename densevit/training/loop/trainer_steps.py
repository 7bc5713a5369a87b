"""The length of training in a user's Trainer."""

import math

import pytorch_lightning as lightning

from densevit.config import OptimSection
from densevit.errors import ConfigError
from densevit.training.loop.budget import Budget
from densevit.training.loop.data_module import DenseDataModule
from densevit.training.loop.optim import learning_rate


def optimizer_steps(trainer: lightning.Trainer, section: OptimSection) -> int:
    """The number of optimiser steps of a Trainer. Raises ConfigError if the schedule needs a number and there is no
    end."""
    steps = _steps_of_data_module(trainer) or trainer.estimated_stepping_batches
    if math.isfinite(steps):
        return int(steps)
    if section.schedule == "constant" and not section.warmup:
        return 1
    name = section.schedule if isinstance(section.schedule, str) else section.schedule.name
    raise ConfigError(
        f"optim.schedule={name} needs the number of optimiser steps, and this Trainer has no end. Fix: set its "
        "max_steps or max_epochs, or optim.schedule: constant."
    )


def _steps_of_data_module(trainer: lightning.Trainer) -> int | None:
    """The steps with a `DenseDataModule`, without building its loader: Lightning restores the position of a resumed run
    only in a loader that is built later."""
    data = getattr(trainer, "datamodule", None)
    partial = trainer.limit_train_batches != 1.0 or trainer.overfit_batches  # type: ignore[attr-defined]
    if not isinstance(data, DenseDataModule) or partial or trainer.max_epochs in (None, -1):
        return None
    batches = data.data.batches_per_epoch(trainer.world_size)
    steps = math.ceil(batches / trainer.accumulate_grad_batches) * max(1, int(trainer.max_epochs))
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)


def learning_rate_of(trainer: lightning.Trainer, section: OptimSection, budget: Budget | None) -> float:
    """The learning rate of a run of `fit`, which has a budget, or of a user's Trainer (`images_per_step`)."""
    if budget is not None:
        return learning_rate(section, budget.images_per_step)
    return learning_rate(section, images_per_step(trainer) if section.lr is None else 0)


def images_per_step(trainer: lightning.Trainer) -> int:
    """The number of images of an optimiser step over all processes. Raises ConfigError for a loader without batch
    size."""
    data = getattr(trainer, "datamodule", None)
    size = None
    if isinstance(data, DenseDataModule):
        size = data.data.section.batch_size
    else:
        if trainer.train_dataloader is None:
            trainer.fit_loop.setup_data()
        loader = trainer.train_dataloader
        size = getattr(loader, "batch_size", None) or getattr(
            getattr(loader, "batch_sampler", None), "batch_size", None
        )
    if not isinstance(size, int):
        raise ConfigError(
            "optim.lr_per_256: the training loader has no batch_size, so the learning rate cannot be scaled to it. "
            "Fix: set optim.lr instead."
        )
    return size * trainer.accumulate_grad_batches * trainer.world_size
