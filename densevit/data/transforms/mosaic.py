"""Mosaic (Bochkovskiy et al. 2020, YOLOv4, section 3.3): four training images in the quadrants of one."""

from types import MappingProxyType

import numpy as np
import torch

from densevit.channels import RGB, Channels
from densevit.data.transforms.copy_paste import (
    Classes,
    another_sample,
    check_pasted,
    pasted_values,
    sample_values,
)
from densevit.data.transforms.sample_augmentation import placed, visible_shares
from densevit.data.transforms.sample_resizing import (
    TrainingTransform,
    Types,
    Values,
    as_tensor,
    new_pixels,
    selected,
    visible_values,
)
from densevit.interfaces import LABEL_DIVISOR, VOID, Dataset, Sample, Size, Window
from densevit.targets.panoptic_maps import PanopticMap
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.types import TargetTypes

_CUT = (0.25, 0.75)  # range of the point where the quadrants meet, as shares of each side
_VISIBLE = 0.2  # minimum share of an object's box inside its quadrant, as in mmdetection


class Mosaic:
    """Joins random windows of four augmented images as the quadrants around a random point.

    transform: applied to all four images. dataset: source of the other three images. probability: the probability that
    an image becomes a mosaic.

    An image smaller than its quadrant fills a part of it; the rest is `new_pixels`, and unlabelled in maps. Objects
    with less than a fifth of their box visible are left out; in panoptic maps they become void, like crowds. The first
    image stays unchanged if the target keys of the four differ, as in a mix. Raises ConfigError for target keys whose
    type has no `paste`.
    """

    def __init__(self, transform: TrainingTransform, dataset: Dataset, probability: float) -> None:
        self.types = check_pasted(dataset, "mosaic")
        self.transform, self.dataset, self.probability = transform, dataset, probability

    def __call__(self, sample: Sample, rng: np.random.Generator, types: Types | None = None) -> Sample:
        """Returns the augmented sample; with `probability`, a mosaic of its size."""
        types = TargetTypes() if types is None else types
        first = self.transform(sample, rng, types)
        if rng.random() >= self.probability:
            return first
        other_samples = [another_sample(self.dataset, self.types, rng) for _ in range(3)]
        samples = [first, *(self.transform(other, rng, types) for other in other_samples)]
        return mosaic(samples, types, rng, self.dataset.classes, self.dataset.channels)


def mosaic(
    samples: list[Sample],
    types: Types,
    rng: np.random.Generator,
    classes: Classes = MappingProxyType({}),
    channels: Channels = RGB,
) -> Sample:
    """Returns the mosaic of four transformed samples, of the size of the first.

    classes: the data set's, by task. channels: the images' channels.
    """
    first = samples[0]
    all_values = [sample_values(sample, types, classes) for sample in samples]
    if any(values.keys() != all_values[0].keys() for values in all_values):
        return first
    height, width = size = first["targets"]["size"]
    y, x = (round(side * rng.uniform(*_CUT)) for side in size)
    image = np.zeros(first["image"].shape, first["image"].numpy().dtype)
    values: Values = {}
    for quadrant, sample, quadrant_values in zip(
        ((0, 0, y, x), (0, x, y, width), (y, 0, height, x), (y, x, height, width)), samples, all_values, strict=True
    ):
        h, w = sample_size = sample["targets"]["size"]
        window, destination = _random_window(sample_size, quadrant, rng)
        part = _moved(quadrant_values, types, sample_size, window, destination, size)
        pixels = sample["image"][:, :h, :w].numpy()
        image[:, quadrant[0] : quadrant[2], quadrant[1] : quadrant[3]] = new_pixels(pixels, channels)
        top, left, bottom, right = destination
        image[:, top:bottom, left:right] = pixels[:, window[0] : window[2], window[1] : window[3]]
        covered = np.zeros(size, bool)
        covered[top:bottom, left:right] = True
        values = pasted_values(values, part, covered, types) if values else part
    return {
        "image": torch.from_numpy(image),
        "targets": first["targets"] | {key: as_tensor(value) for key, value in values.items()},
    }


def _random_window(size: Size, quadrant: Window, rng: np.random.Generator) -> tuple[Window, Window]:
    """Returns a random window of an image, as large as the quadrant or the image's side, and its destination: the
    corner of the quadrant at the point where the quadrants meet."""
    top, left, bottom, right = quadrant
    height, width = min(bottom - top, size[0]), min(right - left, size[1])
    y, x = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
    top, left = bottom - height if top == 0 else top, right - width if left == 0 else left
    return (y, x, y + height, x + width), (top, left, top + height, left + width)


def _moved(values: Values, types: Types, size: Size, window: Window, destination: Window, new_size: Size) -> Values:
    """Crops the values of an image to a window and moves them to a destination in a new image; drops objects that are
    hardly visible."""
    sides = (window[2] - window[0], window[3] - window[1])
    for key, value in values.items():
        if isinstance(types[key], PanopticMap):
            values[key] = _without_hidden(value, window, sides)
    values = {key: types[key].crop(value, window, size) for key, value in values.items()}
    if len(values.get("boxes", ())):
        values = selected(values, types, visible_shares(values["boxes"], sides) >= _VISIBLE)
    values = visible_values(values, types, sides)
    top, left = destination[:2]
    canvas = (-top, -left, new_size[0] - top, new_size[1] - left)  # in coordinates of the window
    for key, value in values.items():
        if types[key].per == "pixel":
            values[key] = placed(value, destination, new_size, types[key].fill)
        else:
            values[key] = types[key].clip(types[key].crop(value, canvas, sides), new_size)
    return values


def _without_hidden(panoptic: np.ndarray, window: Window, sides: Size) -> np.ndarray:
    """Makes things void that are hardly visible in a window of a panoptic map. sides: (h, w) of the window."""
    ids = np.unique(panoptic)
    things = ids[ids % LABEL_DIVISOR > 0]  # includes void, which stays void
    boxes = RunLengthMasks.from_ids(panoptic, things).boxes() - np.array([window[1], window[0]] * 2)
    return np.where(np.isin(panoptic, things[visible_shares(boxes, sides) < _VISIBLE]), VOID, panoptic)
