"""The evaluation transform, and the resampling that it shares with the training transform (`augmentation.py`).

Sizes follow from `data.recipe` and `data.image_size` (see `recipes.py`). Images stay uint8; the model normalises them.
"""

import warnings
from collections.abc import Mapping
from numbers import Number
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.data.transforms.recipes import Recipe, Size, build_recipe
from densevit.errors import DataError
from densevit.interfaces import Sample, Targets

if TYPE_CHECKING:
    from densevit.config import DataSection

OBJECT_KEYS = ("boxes", "labels", "masks")  # one row an object
MAP_KEYS = ("semantic", "depth")  # one value a pixel
KNOWN_KEYS = (*OBJECT_KEYS, *MAP_KEYS, "area", "iscrowd", "image_id", "size", "original_size")


class TrainingTransform(Protocol):
    """A random transform, determined by the sample and the generator."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample: ...


def build_evaluation_transform(section: "DataSection") -> "EvaluationTransform":
    """The evaluation transform of a data section."""
    return EvaluationTransform(build_recipe(section.recipe, section.image_size, section.short_side, section.scales))


class EvaluationTransform:
    """Resizes a sample deterministically.

    canvas: (h, w) to which images are padded at the bottom and right, or None; `size` and targets exclude the padding.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.canvas = recipe, recipe.evaluation_canvas

    def size_of(self, height: int, width: int) -> Size:
        """(h, w) to which an image of this size is resized, without padding."""
        return self.recipe.evaluation_size(height, width)

    def __call__(self, sample: Sample) -> Sample:
        """Returns the resized sample: targets on the new grid, without crowds, with `size` and `original_size`."""
        pixels, targets = to_pixels(sample["image"]), plain_objects(sample)
        height, width = pixels.shape[:2]
        size = self.size_of(height, width)
        if "boxes" in targets:
            scale = torch.tensor([size[1] / width, size[0] / height]).repeat(2)
            targets["boxes"] = targets["boxes"].float() * scale
        for key in MAP_KEYS:
            if key in targets:
                targets[key] = torch.from_numpy(resize_map(targets[key].numpy(), size))
        if "masks" in targets:
            targets["masks"] = torch.from_numpy(resize_masks(targets["masks"].numpy(), size))
        return finished(resize_image(pixels, size), targets, (height, width), self.canvas)


class WithoutAugmentation:
    """The training transform of the recipe `resize`: that of evaluation. The generator is not used."""

    def __init__(self, evaluation: EvaluationTransform) -> None:
        self.evaluation = evaluation

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.evaluation(sample)


# ---- what goes in and comes out ----


def to_pixels(image: Tensor) -> np.ndarray:
    """(3, H, W) tensor to (H, W, 3) array, without a copy where the memory layout allows it."""
    if image.is_contiguous():
        return cv2.merge([plane.numpy() for plane in image])
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def plain_objects(sample: Sample) -> Targets:
    """Training targets: without crowds, boxes clipped to the image, boxes without area dropped.

    Boxes outside of the image or without area make other libraries raise, or drop the wrong labels. Raises DataError
    with the image's id for boxes that are not finite and for object keys of different lengths.
    """
    targets = {key: value for key, value in sample["targets"].items() if key not in ("iscrowd", "area")}
    present = [key for key in OBJECT_KEYS if key in targets]
    if not present:
        return targets
    name = targets.get("image_id")
    lengths = {key: len(targets[key]) for key in present}
    keep = torch.ones(lengths[present[0]], dtype=torch.bool)
    if "iscrowd" in sample["targets"]:
        lengths["iscrowd"] = len(sample["targets"]["iscrowd"])
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"image {name!r}: targets differ in length: {', '.join(f'{k} {n}' for k, n in lengths.items())}."
        )
    if "iscrowd" in sample["targets"]:
        keep &= ~sample["targets"]["iscrowd"].bool()
    if "boxes" in targets:
        if not torch.isfinite(targets["boxes"]).all():
            raise DataError(f"image {name!r} has a box that is not finite: {targets['boxes'].tolist()}.")
        height, width = sample["image"].shape[-2:]
        targets["boxes"] = targets["boxes"].clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        solid = (targets["boxes"][:, 2:] > targets["boxes"][:, :2]).all(dim=1)
        if not solid.all():
            warnings.warn("Boxes without area inside their image are left out.", stacklevel=2)
        keep &= solid
    return targets | {key: targets[key][keep] for key in present}


def unknown_keys(targets: Targets) -> list[str]:
    """The keys that would have to be transformed with the image and are unknown.

    Unknown keys may hold metadata, which transforms do not change: strings, single numbers, None, lists of strings, and
    dicts of these.
    """
    return [key for key, value in targets.items() if key not in KNOWN_KEYS and not _is_metadata(value)]


def _is_metadata(value: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim == 0
    if isinstance(value, Mapping):
        return all(map(_is_metadata, value.values()))
    if isinstance(value, list | tuple):
        return all(isinstance(item, str) for item in value)
    return value is None or isinstance(value, str | bytes | Number | np.generic)


def finished(pixels: np.ndarray, targets: Targets, original_size: Size, canvas: Size | None) -> Sample:
    """The sample of resized pixels (h, w, 3), padded to the canvas if there is one."""
    size = (pixels.shape[0], pixels.shape[1])
    planes = np.empty((3, *size), np.uint8)
    cv2.split(pixels, list(planes))
    if canvas is not None and canvas != size:
        planes = np.pad(planes, ((0, 0), (0, canvas[0] - size[0]), (0, canvas[1] - size[1])))
    return {"image": torch.from_numpy(planes), "targets": targets | {"size": size, "original_size": original_size}}


# ---- resampling ----


def resize_image(pixels: np.ndarray, size: Size) -> np.ndarray:
    """(H, W, 3) uint8 to this (h, w): bilinear, with antialiasing where it shrinks.

    Equal to Pillow and torchvision, with which official weights were trained, to within one level: torch's kernel for
    uint8, or OpenCV's faster one where no side shrinks.
    """
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels
    if size[0] >= height and size[1] >= width:
        return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    resized = F.interpolate(planes, size, mode="bilinear", antialias=True)[0]
    return np.ascontiguousarray(resized.permute(1, 2, 0).numpy())


def resize_map(values: np.ndarray, size: Size) -> np.ndarray:
    """(H, W) labels or metres to this (h, w): each pixel takes the value at its centre."""
    if values.shape == size:
        return values
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def resize_masks(masks: np.ndarray, size: Size) -> np.ndarray:
    """(N, H, W) bool or uint8 to this (h, w)."""
    if masks.shape[1:] == size:
        return masks
    resized = np.empty((len(masks), *size), np.uint8)
    for mask, out in zip(masks.view(np.uint8), resized, strict=True):
        cv2.resize(mask, size[::-1], dst=out, interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.view(masks.dtype)
