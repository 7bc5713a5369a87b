"""The training transforms of a run: one per size of multi-scale training, in the first and the final phase."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from densevit.data.transforms.sample_resizing import TrainingTransform
from densevit.interfaces import Size, Transforms
from densevit.model.zoom import create_transforms

if TYPE_CHECKING:
    from densevit.config import DataSection
    from densevit.data.transforms.image_mixing import ImageMixing


@dataclass(frozen=True)
class AugmentationPhase:
    """The training transforms of a phase of a run. A batch draws one of them, so that multi-scale training has one size
    per batch, as in RT-DETR (Zhao et al. 2024) and D-FINE (Peng et al. 2024).

    mixing: mixes the transformed images of a batch; None: no mixing.
    """

    transforms: Sequence[TrainingTransform]
    mixing: "ImageMixing | None" = None

    def transform(self, seed: int, batch: int) -> TrainingTransform:
        """Returns the transform of a batch. It depends only on the arguments, so that all samples of a global batch
        have the same size in every worker and process. seed: the epoch's seed. batch: the position in the epoch.
        """
        if len(self.transforms) == 1:
            return self.transforms[0]
        return self.transforms[int(np.random.default_rng([seed, batch]).integers(len(self.transforms)))]

    def mapped(self, function: Callable[[TrainingTransform], TrainingTransform]) -> "AugmentationPhase":
        """Returns the phase with each transform replaced by the function's result."""
        return AugmentationPhase([function(transform) for transform in self.transforms], self.mixing)


def transforms_at(section: "DataSection", size: int) -> Transforms:
    """Builds the transforms for an `image_size` scaled so that it, or its larger side, is `size`."""
    assert section.image_size is not None  # the schema checks it for multi-scale training
    base = section.image_size if isinstance(section.image_size, int) else max(section.image_size)
    sides: int | Size = size
    if not isinstance(section.image_size, int):
        height, width = (max(1, round(side * size / base)) for side in section.image_size)
        sides = (height, width)
    transforms = create_transforms(section.model_copy(update={"image_size": sides}))
    transforms.rescale(size / base)
    return transforms


def final_phase_start(
    start: float, steps: float, steps_per_epoch: int, shift: float = 0, *, batches_per_step: int
) -> tuple[int, int]:
    """Returns epoch and position of the first batch of the final phase.

    start: fraction of the optimiser steps. shift: added to this step, to count it in steps of epochs. The last step of
    an epoch may have fewer batches.
    """
    epoch, step = divmod(math.ceil(start * steps + shift), steps_per_epoch)
    return epoch, step * batches_per_step
