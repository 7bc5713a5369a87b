"""Simple Copy-Paste (Ghiasi et al. 2021): objects of another training image are pasted by their instance masks."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from densevit.data.sample_checks import check_sample
from densevit.data.transforms.sample_resizing import (
    TrainingTransform,
    Types,
    Values,
    as_numpy,
    as_tensor,
    selected,
    visible_values,
)
from densevit.errors import ConfigError
from densevit.interfaces import Class, Dataset, Sample, Size
from densevit.targets.object_targets import Boxes, InstanceMasks
from densevit.targets.panoptic_maps import PanopticMap
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.types import TargetTypes

Classes = Mapping[str, Sequence[Class]]

# A partly covered object is kept if its box moves little or much of its mask is left: mmdetection's thresholds for
# images of 1024 x 1024, scaled with the size of the image.
_SIDE = 1024
_BOX_CHANGE = 10  # pixels, of each side of the box
_PIXELS_LEFT = 300  # of the mask


@runtime_checkable
class SupportsPaste(Protocol):
    """A target type that can be used with `data.copy_paste` and `data.mosaic`."""

    def paste(self, value: Any, pasted: Any, covered: np.ndarray) -> Any:
        """Returns the value of an image on which objects of a second image are pasted.

        pasted: the value of the second image; types per object: only the pasted objects. covered: (h, w) bool, the
        pixels that the pasted objects cover. Maps of the second image are also (h, w); they lie at the upper left of
        the first image, which is at least as large.
        """


class CopyPaste:
    """Pastes a random subset of the objects of a second image, after both images are augmented.

    transform: applied to both images. dataset: source of the second image. probability: the probability that an image
    receives pasted objects.

    Objects keep their coordinates and are cropped to the first image, without the paper's blending. Pasted objects
    replace the values of maps; covered pixels are removed from masks, and boxes are recomputed from them. An image
    without masks, or with other target keys than the second image, as in a mix, is not changed. Raises ConfigError for
    a data set without instance masks, and for target keys whose type has no `paste`.
    """

    def __init__(self, transform: TrainingTransform, dataset: Dataset, probability: float) -> None:
        types = check_pasted(dataset, "copy_paste")
        if not any(isinstance(types[key], InstanceMasks) for key in dataset.provides if key in types):
            raise ConfigError(
                "data.copy_paste pastes objects by their masks, but this data set labels "
                f"{', '.join(dataset.provides)}. Fix: let it read instance masks (`data.masks: true`), or leave "
                "data.copy_paste out."
            )
        self.transform, self.dataset, self.probability, self.types = transform, dataset, probability, types

    def __call__(self, sample: Sample, rng: np.random.Generator, types: Types | None = None) -> Sample:
        """Returns the augmented sample; with `probability`, objects of another sample are pasted."""
        types = TargetTypes() if types is None else types
        first = self.transform(sample, rng, types)
        if rng.random() >= self.probability:
            return first
        second = another_sample(self.dataset, self.types, rng)
        return pasted(first, self.transform(second, rng, types), types, rng, self.dataset.classes)


def check_pasted(dataset: Dataset, option: str) -> TargetTypes:
    """Returns the types of a data set's target keys. Raises ConfigError for a type without `paste`, unless
    `truth_only`.

    option: `copy_paste` or `mosaic`, for the message.
    """
    types = TargetTypes.of(dataset)
    for key in dataset.provides:
        if key in types and not isinstance(types[key], SupportsPaste) and not types[key].truth_only:
            raise ConfigError(
                f"data.{option} cannot be used with the target {key!r}: {type(types[key]).__name__} does not "
                f"implement paste(). Fix: leave {key!r} out of the data set (an option such as "
                f"`data.{key}: false`), or leave data.{option} out."
            )
    return types


def another_sample(dataset: Dataset, types: TargetTypes, rng: np.random.Generator) -> Sample:
    """Returns a random, checked sample of a data set."""
    index = int(rng.integers(len(dataset)))
    sample = dataset[index]
    check_sample(sample, dataset, index, types, dataset.channels)
    return sample


def pasted(
    first: Sample, second: Sample, types: Types, rng: np.random.Generator, classes: Classes = MappingProxyType({})
) -> Sample:
    """Pastes a random subset, 0 ... N, of the N visible objects of the second transformed sample into the first.

    classes: the data set's, by task.
    """
    values, pasted_objects = (sample_values(sample, types, classes) for sample in (first, second))
    key = next((key for key in values if isinstance(types[key], InstanceMasks)), None)
    if key is None or values.keys() != pasted_objects.keys():
        return first
    size, other_size = first["targets"]["size"], second["targets"]["size"]
    height, width = common = (min(size[0], other_size[0]), min(size[1], other_size[1]))
    pasted_objects = {k: types[k].crop(value, (0, 0, *common), other_size) for k, value in pasted_objects.items()}
    pasted_objects = visible_values(pasted_objects, types, common)
    count = len(pasted_objects[key])
    chosen = np.zeros(count, bool)
    chosen[rng.permutation(count)[: rng.integers(count + 1)]] = True
    if not chosen.any():
        return first
    pasted_objects = selected(pasted_objects, types, chosen)
    covered, before = pasted_objects[key].union(), values[key]
    values = pasted_values(values, pasted_objects, covered, types)
    after = values[key]
    occluded, keep = _occlusion(before, after, size)
    for k, value in values.items():
        if isinstance(types[k], Boxes):
            value[occluded] = after.boxes()[occluded]
    values = selected(values, types, keep)
    image = first["image"].clone()
    region = image[:, :height, :width]
    region.copy_(torch.where(torch.from_numpy(covered), second["image"][:, :height, :width], region))
    return {"image": image, "targets": first["targets"] | {k: as_tensor(value) for k, value in values.items()}}


def pasted_values(values: Values, pasted: Values, covered: np.ndarray, types: Types) -> Values:
    """Pastes the values of a second image (`SupportsPaste.paste`)."""
    result = {}
    for key, value in values.items():
        target_type = types[key]
        if not isinstance(target_type, SupportsPaste):
            raise NotImplementedError(f"{type(target_type).__name__} does not implement paste().")
        result[key] = target_type.paste(value, pasted[key], covered)
    return result


def sample_values(sample: Sample, types: Types, classes: Classes) -> Values:
    """Returns the typed values of a transformed sample as arrays; crowds of panoptic maps become void."""
    targets = sample["targets"]
    values = {key: as_numpy(value) for key, value in targets.items() if key in types}
    for key, value in values.items():
        if isinstance(target_type := types[key], PanopticMap):
            values[key] = target_type.separated(
                value, targets.get("panoptic_crowds", []), classes.get(target_type.task or "", ())
            )
    return values


def _occlusion(before: RunLengthMasks, after: RunLengthMasks, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Returns which objects lost pixels and which are kept, (N + M,) bool each.

    before: the N masks of the first image. after: these masks without covered pixels, then the M pasted masks.
    """
    n, scale, areas = len(before), math.sqrt(math.prod(size)) / _SIDE, after.areas()
    occluded, keep = np.zeros(len(after), bool), np.ones(len(after), bool)
    occluded[:n] = areas[:n] < before.areas()
    moved = np.abs(after.boxes()[:n] - before.boxes()).max(axis=1, initial=0)
    enough = (moved <= _BOX_CHANGE * scale) | (areas[:n] > _PIXELS_LEFT * scale**2)
    keep[:n] = ~occluded[:n] | (areas[:n] > 0) & enough
    return occluded, keep
