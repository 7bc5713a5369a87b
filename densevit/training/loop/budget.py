"""The training budget: the number of optimiser steps, and the steps after which validation runs."""

import math
from dataclasses import dataclass

from densevit.config import TrainerSection
from densevit.errors import counted


@dataclass(frozen=True)
class Budget:
    """The length of a run.

    steps: the number of optimiser steps. steps_per_epoch: optimiser steps per pass over the data set.
    images_per_step: summed over all processes. evaluate_every: a fraction of `steps` if below 1, else a number of
    epochs.
    """

    steps: int
    steps_per_epoch: int
    images_per_step: int
    evaluate_every: float

    @classmethod
    def of(cls, section: TrainerSection, batches_per_epoch: int, batch_size: int, world_size: int) -> "Budget":
        """Computes the budget from max_steps, max_images or max_epochs, whichever is set."""
        steps_per_epoch = math.ceil(batches_per_epoch / section.accumulate)
        images_per_step = batch_size * section.accumulate * world_size
        if section.max_steps is not None:
            steps = section.max_steps
        elif section.max_images is not None:
            steps = max(1, section.max_images // images_per_step)
        else:
            assert section.max_epochs is not None  # the section sets one of the three
            steps = section.max_epochs * steps_per_epoch
        return cls(steps, steps_per_epoch, images_per_step, section.evaluate_every)

    @property
    def images(self) -> int:
        """The number of images seen during training, over all processes."""
        return self.steps * self.images_per_step

    def validates_after(self, step: int) -> bool:
        """Whether validation runs after optimiser step `step`, counted from 1; always true for the last step."""
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
        """The number of validations."""
        if self.evaluate_every >= 1:
            return math.ceil(self.steps / (round(self.evaluate_every) * self.steps_per_epoch))
        return min(self.steps, round(1 / self.evaluate_every))

    def describe(self, images: int) -> str:
        """The budget in one line. images: the number of images in the data set."""
        return (
            f"budget: {counted(self.steps, 'step')} of {self.images_per_step} images, {self.images:,} in all; each of "
            f"{images:,} images is seen {_times(self.images / images)}; {counted(self.validations, 'validation')}"
        )


def _times(count: float) -> str:
    if count < 0.95:
        return f"{count:.2g} times: not all images are used"
    return f"{count:.0f} times" if count >= 1.5 else "once"
