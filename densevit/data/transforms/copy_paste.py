"""Simple Copy-Paste (Ghiasi et al. 2021): objects of another training image are pasted by their instance masks."""

import math

import numpy as np
import torch

from densevit.data.sample_checks import check_sample
from densevit.data.transforms.resizing import TrainingTransform, Types, Values, as_array, selected, visible_values
from densevit.errors import ConfigError
from densevit.interfaces import Dataset, Sample, Size, TargetType
from densevit.targets.objects import Boxes, InstanceMasks, run_length_coded
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.types import TargetTypes

# An object that pasted ones cover in part is kept if its box moves little or much of its mask is left: mmdetection's
# numbers, for images of 1024 x 1024. They are scaled with the size of the image.
_SIDE = 1024
_BOX_CHANGE = 10  # pixels, of each side of the box
_PIXELS_LEFT = 300  # of the mask


class CopyPaste:
    """Pastes a random subset of the objects of a second image, after both were augmented.

    transform: of both images. dataset: the second image is drawn from it. probability: of pasting at all.

    Objects keep their place from the upper left; what lies outside of the first image is cut off, without the paper's
    blending. Covered pixels are taken from masks and maps, and the boxes of these objects are those of the rest. An
    image whose target keys differ from the second one's, as in a mix, or without masks, remains as it is. Raises
    ConfigError for a data set without instance masks, and for target keys whose type has no `paste`.
    """

    def __init__(self, transform: TrainingTransform, dataset: Dataset, probability: float) -> None:
        types = TargetTypes.of(dataset)
        keys = [key for key in dataset.provides if key in types]
        if not any(isinstance(types[key], InstanceMasks) for key in keys):
            raise ConfigError(
                f"data.copy_paste pastes objects by their masks, but this data set labels {', '.join(keys)}. Fix: let "
                "it read instance masks (`data.masks: true`), or leave data.copy_paste out."
            )
        for key in keys:
            if type(types[key]).paste is TargetType.paste and not types[key].truth_only:
                raise ConfigError(
                    f"data.copy_paste cannot be used with the target {key!r}: {type(types[key]).__name__} does not say "
                    f"what a pasted object changes in it (TargetType.paste). Fix: leave {key!r} out of the data set "
                    f"(an option such as `data.{key}: false`), or leave data.copy_paste out."
                )
        self.transform, self.dataset, self.probability, self.types = transform, dataset, probability, types

    def __call__(self, sample: Sample, rng: np.random.Generator, types: Types | None = None) -> Sample:
        """Returns the augmented sample, with pasted objects."""
        types = TargetTypes() if types is None else types
        first = self.transform(sample, rng, types)
        if rng.random() >= self.probability:
            return first
        index = int(rng.integers(len(self.dataset)))
        second = self.dataset[index]
        check_sample(second, self.dataset, index, self.types)
        return pasted(first, self.transform(second, rng, types), types, rng)


def pasted(first: Sample, second: Sample, types: Types, rng: np.random.Generator) -> Sample:
    """The first of two transformed samples with some objects of the second: 0 ... N of its N in view, at random."""
    values, others = _values(first, types), _values(second, types)
    key = next((key for key in values if isinstance(types[key], InstanceMasks)), None)
    if key is None or values.keys() != others.keys():
        return first
    size, other_size = first["targets"]["size"], second["targets"]["size"]
    height, width = common = (min(size[0], other_size[0]), min(size[1], other_size[1]))
    others = {k: types[k].crop(value, (0, 0, *common), other_size) for k, value in others.items()}
    others = visible_values(others, types, common)
    count = len(others[key])
    chosen = np.zeros(count, bool)
    chosen[rng.permutation(count)[: rng.integers(count + 1)]] = True
    if not chosen.any():
        return first
    others = selected(others, types, chosen)
    covered = run_length_coded(others[key]).union()
    before = run_length_coded(values[key])
    values = {k: types[k].paste(value, others[k], covered) for k, value in values.items()}
    after = run_length_coded(values[key])
    occluded, keep = _occlusion(before, after, size)
    for k, value in values.items():
        if isinstance(types[k], Boxes):
            value[occluded] = after.boxes()[occluded]
    values = selected(values, types, keep)
    image = first["image"].clone()
    region = image[:, :height, :width]
    region.copy_(torch.where(torch.from_numpy(covered), second["image"][:, :height, :width], region))
    tensors = {k: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for k, value in values.items()}
    return {"image": image, "targets": first["targets"] | tensors}


def _values(sample: Sample, types: Types) -> Values:
    return {key: as_array(value) for key, value in sample["targets"].items() if key in types}


def _occlusion(before: RunLengthMasks, after: RunLengthMasks, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Which objects lost pixels and which are kept, (N + M,) bool.

    before: the N masks of the first image. after: theirs with the M pasted ones.
    """
    n, scale, areas = len(before), math.sqrt(math.prod(size)) / _SIDE, after.areas()
    occluded, keep = np.zeros(len(after), bool), np.ones(len(after), bool)
    occluded[:n] = areas[:n] < before.areas()
    moved = np.abs(after.boxes()[:n] - before.boxes()).max(axis=1, initial=0)
    enough = (moved <= _BOX_CHANGE * scale) | (areas[:n] > _PIXELS_LEFT * scale**2)
    keep[:n] = ~occluded[:n] | (areas[:n] > 0) & enough
    return occluded, keep
