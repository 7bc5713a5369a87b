"""What a model was trained on, to which the images and the labels of predictions and evaluations are compared."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from densevit.errors import warn_user
from densevit.interfaces import Size

_OTHER = 2.0  # ratio of the sides of an image, or of a median, to those of training images


@dataclass
class TrainingRecord:
    """Sizes and values of training images. Copies of a model that share parameters share it.

    sizes: the smallest and the largest (h, w) of images that keep their size; empty if they are unknown, or resized by
    `training_data`. medians: the medians of the maps of a few images by target key, such as `depth` in metres.
    image_size: that of `training_data` if it is the long side of all images, which another training does not keep.
    """

    sizes: list[Size] = field(default_factory=list)
    medians: dict[str, list[float]] = field(default_factory=dict)
    image_size: int | None = None
    is_reported = False

    def add_size(self, size: Size) -> None:
        """Adds the size of an image."""
        if size not in self.sizes:
            ordered = sorted((*self.sizes, size), key=math.prod)
            self.sizes[:] = ordered[0], ordered[-1]

    def add_map(self, key: str, values: np.ndarray) -> None:
        """Adds the median of a map's positive values, if it has any."""
        positive = values[np.isfinite(values) & (values > 0)]
        if positive.size:
            self.medians.setdefault(key, []).append(float(np.median(positive)))

    def warn_of_size(self, size: Size) -> None:
        """Warns once if an image has more than twice, or less than half, the sides of the training images. size: (h, w)
        of the model's input."""
        if not self.sizes or self.is_reported:
            return
        area, areas = math.prod(size), [math.prod(trained) for trained in self.sizes]
        ratio = math.sqrt(area / min(max(area, areas[0]), areas[-1]))
        if 1 / _OTHER <= ratio <= _OTHER:
            return
        self.is_reported = True
        trained = " to ".join(dict.fromkeys(f"{height} x {width}" for height, width in self.sizes))
        warn_user(
            f"predict: the model was trained on images of {trained} pixels (height x width), and this one has "
            f"{size[0]} x {size[1]}, {ratio:.2g} times the sides: objects have other sizes than in training. Fix: "
            f"image_size={max(self.sizes[-1])}, which resizes images; model.with_resize(...), for all calls; or "
            'image_size="source" if their size is right.'
        )

    def warn_of_values(self, medians: Mapping[str, list[float]]) -> None:
        """Warns if the median of a target is far outside of the medians of the training images, as in another unit.
        medians: those of the evaluated images."""
        for key in medians.keys() & self.medians.keys():
            median, trained = statistics.median(medians[key]), self.medians[key]
            low, middle, high = min(trained), statistics.median(trained), max(trained)
            if not low / _OTHER <= median <= high * _OTHER:
                factor, word = (median / middle, "above") if median > middle else (middle / median, "below")
                warn_user(
                    f"{key}: the evaluated images have a median of {median:.3g}, {factor:.3g} times {word} that of the "
                    f"training images, {middle:.3g} ({low:.3g} to {high:.3g} by image). Are the files in another unit? "
                    "Fix: set the unit of this data, as data.scale."
                )
