"""The length of training in a user's Trainer, and the position at which it is resumed."""

import math
import sys

import pytorch_lightning as lightning

from densevit.config import OptimSection
from densevit.data.loading.dataloader import Loader
from densevit.errors import ConfigError
from densevit.interfaces import Batch, LossContext
from densevit.training.loop.budget import Budget
from densevit.training.loop.optim import learning_rate


def optimizer_steps(trainer: lightning.Trainer, section: OptimSection) -> int:
    """The number of optimiser steps of a Trainer. Raises ConfigError if the schedule needs a number and there is no
    end."""
    steps = trainer.estimated_stepping_batches if trainer.limit_train_batches else 0
    if 0 <= steps < math.inf:  # -1: neither max_steps nor a loader with a length
        return int(steps)
    if section.schedule == "constant" and not section.warmup:
        return 1
    name = section.schedule if isinstance(section.schedule, str) else section.schedule.name
    raise ConfigError(
        f"optim.schedule={name} needs the number of optimiser steps, and this Trainer has no end; max_time is not a "
        "number of steps. Fix: set its max_steps or max_epochs, or optim.schedule: constant."
    )


def progress(trainer: lightning.Trainer, steps: int, shift: float) -> LossContext:
    """A loss's step and share of the training, for one process; outside of training, of its end. steps: their number;
    0: unknown. shift: subtracted from steps, see `Budget`."""
    if trainer.state.fn != "fit":
        return LossContext(step=sys.maxsize, progress=1.0)
    step = trainer.global_step
    return LossContext(step=step, progress=min(1.0, (step - shift) / (steps - shift)) if steps else 0.0)


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


def learning_rate_of(trainer: lightning.Trainer, section: OptimSection, budget: Budget | None) -> float:
    """The learning rate of a run of `fit`, which has a budget, or of a user's Trainer (`images_per_step`)."""
    if budget is not None:
        return learning_rate(section, budget.images_per_step)
    return learning_rate(section, images_per_step(trainer) if section.lr is None else 0)


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
    batches = getattr(loader, "batches_per_step", None) or trainer.accumulate_grad_batches
    return size * batches * trainer.world_size
