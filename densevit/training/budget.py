"""The training budget: how many optimiser steps a training has, and after which of them it validates."""

import math
from dataclasses import dataclass

from densevit.config import TrainerSection


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
            f"budget: {counted(self.steps, 'step')} of {self.images_per_step} images, {self.images:,} in all; each of "
            f"{images:,} images is seen {_times(self.images / images)}; {counted(self.validations, 'validation')}"
        )


def _times(count: float) -> str:
    if count < 0.95:
        return f"{count:.2f} times: not all of them are used"
    return f"{count:.0f} times" if count >= 1.5 else "once"


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
