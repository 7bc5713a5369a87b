"""The training budget: the number of optimiser steps, and the steps after which validation runs."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from densevit.config import TrainerSection
from densevit.errors import counted


class Trained(NamedTuple):
    """The training before a checkpoint: optimiser steps, images, and the images of a step at its start. It has consumed
    `position` of `length` batches of the epoch; None: as many as the resumed run's."""

    step: int = 0
    images: int = 0
    first_images_per_step: int | None = None
    epoch: int = 0
    position: int = 0
    length: int | None = None


@dataclass(frozen=True)
class Budget:
    """The length of a run.

    steps: the number of optimiser steps. steps_per_epoch: optimiser steps per pass over the data set.
    images_per_step: summed over all processes. evaluations: the number of validations at equal intervals; 0: one
    every `evaluate_every_epochs`.

    A run may resume with other images per step. Its schedules then count the steps that a run with the current images
    per step needs for the same progress, `step - shift`. epoch_shift: the shift of steps in epochs. extra_images:
    images seen in addition to `images_per_step` per step. warmup_scale: factor on `optim.warmup_steps`.
    """

    steps: int
    steps_per_epoch: int
    images_per_step: int
    evaluations: int = 0
    evaluate_every_epochs: int = 1
    shift: float = 0
    epoch_shift: int = 0
    extra_images: int = 0
    warmup_scale: float = 1

    @classmethod
    def of(
        cls,
        section: TrainerSection,
        batches_per_epoch: int,
        batch_size: int,
        world_size: int,
        trained: Trained = Trained(),  # noqa: B008  # immutable
    ) -> "Budget":
        """Computes the budget from max_steps, max_images or max_epochs, whichever is set.

        max_images and max_epochs include the images and epochs that a resumed run has trained.
        """
        steps_per_epoch = math.ceil(batches_per_epoch / section.accumulate)
        images_per_step = batch_size * section.accumulate * world_size
        position = trained.position * batches_per_epoch // (trained.length or batches_per_epoch)
        left = math.ceil((batches_per_epoch - position) / section.accumulate)  # steps of the epoch
        epoch_shift = trained.step + left - (trained.epoch + 1) * steps_per_epoch
        extra_images = trained.images - trained.step * images_per_step
        warmup_scale = (trained.first_images_per_step or images_per_step) / images_per_step
        shift: float = 0
        if section.max_steps is not None:
            steps, warmup_scale = section.max_steps, 1
        elif section.max_images is not None:
            steps = max(1, (section.max_images - extra_images) // images_per_step)
            shift = -extra_images / images_per_step
        else:
            assert section.max_epochs is not None  # the section sets one of the three
            steps, shift = section.max_epochs * steps_per_epoch + epoch_shift, epoch_shift
        every, shifts = (section.evaluations or 0, section.evaluate_every_epochs or 1), (shift, epoch_shift)
        return cls(steps, steps_per_epoch, images_per_step, *every, *shifts, extra_images, warmup_scale)

    def state(self, step: int) -> dict[str, Any]:
        """The entries of `Trained` after optimiser step `step` that a checkpoint does not have otherwise."""
        return {
            "images": step * self.images_per_step + self.extra_images,
            "first_images_per_step": round(self.warmup_scale * self.images_per_step),
        }

    @property
    def images(self) -> int:
        """The number of images seen during training, over all processes."""
        return self.steps * self.images_per_step + self.extra_images

    @property
    def length(self) -> float:
        """The number of steps that the schedules count."""
        return self.steps - self.shift

    def validates_after(self, step: int) -> bool:
        """Whether validation runs after optimiser step `step`, counted from 1; always true for the last step."""
        if step == self.steps:
            return True
        if step < 1 or step > self.steps:
            return False
        if not self.evaluations:
            return (step - self.epoch_shift) % (self.evaluate_every_epochs * self.steps_per_epoch) == 0
        count = self.evaluations
        validation = round((step - self.shift) * count / self.length)
        return step == round(validation * self.length / count + self.shift)

    @property
    def validations(self) -> int:
        """The number of validations."""
        if not self.evaluations:
            return math.ceil((self.steps - self.epoch_shift) / (self.evaluate_every_epochs * self.steps_per_epoch))
        return min(self.steps, self.evaluations)

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
