"""The training budget: how many optimiser steps a training has, and after which of them it validates."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytorch_lightning as lightning

from densevit.config import Config, TrainerSection

_MIN_STEPS = 1000  # below these, a model from random weights has learned next to nothing in any of our recipes
_MIN_STEPS_FINE_TUNING = 100
_LOGGED_STEPS = 20  # of a short training, at least
_NEVER = 1 << 62  # batches between two validations


@dataclass(frozen=True)
class Budget:
    """The length of a training, whatever the size of its data set.

    steps: optimiser steps in all. steps_per_epoch: of one pass over the data set. images_per_step: over all processes.
    evaluate_every: below 1 a share of `steps`, else a number of epochs.
    """

    steps: int
    steps_per_epoch: int
    images_per_step: int
    evaluate_every: float

    @classmethod
    def of(cls, section: TrainerSection, batches_per_epoch: int, batch_size: int, world_size: int) -> "Budget":
        """The budget that one of max_steps, max_images and max_epochs sets."""
        steps_per_epoch = math.ceil(batches_per_epoch / section.accumulate)
        images_per_step = batch_size * section.accumulate * world_size
        if section.max_steps is not None:
            steps = section.max_steps
        elif section.max_images is not None:
            steps = max(1, section.max_images // images_per_step)
        else:
            assert section.max_epochs is not None  # the section has one of the three
            steps = section.max_epochs * steps_per_epoch
        return cls(steps, steps_per_epoch, images_per_step, section.evaluate_every)

    @property
    def images(self) -> int:
        """Images seen in all, over all processes."""
        return self.steps * self.images_per_step

    def validates_after(self, step: int) -> bool:
        """Whether validation follows optimiser step number `step`, counted from 1. It always follows the last one."""
        if step == self.steps:
            return True
        if step < 1 or step > self.steps:
            return False
        if self.evaluate_every >= 1:
            return step % (round(self.evaluate_every) * self.steps_per_epoch) == 0
        count = round(1 / self.evaluate_every)
        return step == round(round(step * count / self.steps) * self.steps / count)

    @property
    def validations(self) -> int:
        """How many validations there are in all."""
        if self.evaluate_every >= 1:
            return math.ceil(self.steps / (round(self.evaluate_every) * self.steps_per_epoch))
        return min(self.steps, round(1 / self.evaluate_every))

    def describe(self, images: int) -> str:
        """One line for people. images: how many the data set has."""
        return (
            f"budget: {_counted(self.steps, 'step')} of {self.images_per_step} images, {self.images:,} in all; each of "
            f"{images:,} images is seen {_times(self.images / images)}; {_counted(self.validations, 'validation')}"
        )


def check_budget(budget: Budget, config: Config) -> None:
    """Warns of a budget in which nothing can be learned, with the number to set."""
    pretrained = bool(config.weights or config.backbone.weights)
    least = _MIN_STEPS_FINE_TUNING if pretrained else _MIN_STEPS
    if budget.steps < least:
        section = config.trainer
        [given] = [name for name in ("max_steps", "max_images", "max_epochs") if getattr(section, name) is not None]
        needed = {
            "max_steps": least,
            "max_images": least * budget.images_per_step,
            "max_epochs": math.ceil(least / budget.steps_per_epoch),
        }[given]
        start = "pretrained" if pretrained else "random"
        found = "" if given == "max_steps" else f" is {_counted(budget.steps, 'optimiser step')} of this data set and"
        warnings.warn(
            f"trainer.{given}={getattr(section, given)}{found} is too little to learn from {start} weights, "
            f"which takes {least:,} steps or more. Set trainer.{given}={needed} or leave the recipe's budget.",
            stacklevel=2,
        )
    warmup = config.optim.warmup_steps
    if warmup is not None and warmup >= budget.steps > 1:
        warnings.warn(
            f"optim.warmup_steps={warmup} is all of the {budget.steps} optimiser steps: the learning rate "
            "never reaches its value. Set optim.warmup, a share of the training, such as 0.03.",
            stacklevel=2,
        )


class BudgetCallback(lightning.Callback):
    """Ends the training and starts validations as its `budget` says, which is known once the Trainer is set up.

    Validation runs inside the training loop, after the last step too, so that the best epoch is found and saved
    alike wherever the training ends.

    budget_of: the budget of so many processes.
    """

    budget: Budget

    def __init__(self, budget_of: Callable[[int], Budget]) -> None:
        self.budget_of = budget_of
        self._seen_step = -1

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.budget = self.budget_of(trainer.world_size)
            every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by one of its connectors
            trainer.log_every_n_steps = min(every, max(1, self.budget.steps // _LOGGED_STEPS))  # type: ignore[attr-defined]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._schedule(trainer)  # a resumed run asks whether it stopped at a validation

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object) -> None:
        self._schedule(trainer)

    def _schedule(self, trainer: lightning.Trainer) -> None:
        step = trainer.global_step
        stepped = step != self._seen_step  # not while gradients accumulate
        self._seen_step = step
        trainer.val_check_batch = 1 if stepped and self.budget.validates_after(step) else _NEVER
        # Not Lightning's own max_steps, with which a run that is resumed at the end of an epoch skips the next one.
        trainer.should_stop = trainer.should_stop or step >= self.budget.steps


def _times(count: float) -> str:
    if count < 0.95:
        return f"{count:.2f} times: not all of them are used"
    return f"{count:.0f} times" if count >= 1.5 else "once"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
