"""The evaluation transform, and the resampling that it shares with the training transform (`sample_augmentation.py`).

Sizes follow from `data.transforms` and `data.image_size`. Images keep their type; the model normalises them.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.channels import Channels
from densevit.errors import DataError
from densevit.interfaces import Sample, Size, TargetType, Transforms
from densevit.layers.missing_pixels import resampled
from densevit.model.zoom import create_transforms, zoom_of
from densevit.targets.types import TargetTypes, is_metadata
from densevit.targets.value_checks import check_values

if TYPE_CHECKING:
    from densevit.config import DataSection

Types = Mapping[str, TargetType]
Values = dict[str, Any]

_MOST_CHANNELS = 128  # channels per OpenCV call


class TrainingTransform(Protocol):
    """A random transform, determined by the sample and the generator."""

    def __call__(self, sample: Sample, rng: np.random.Generator, types: Types | None = None) -> Sample: ...


def build_evaluation_transform(section: "DataSection") -> "EvaluationTransform":
    """Builds the evaluation transform of a data section."""
    return EvaluationTransform(create_transforms(section))


class EvaluationTransform:
    """Resizes a sample deterministically.

    canvas: (h, w) to which images are padded at the bottom and right, or None; `size` and targets exclude the padding.
    """

    def __init__(self, transforms: Transforms) -> None:
        self.transforms, self.canvas = transforms, transforms.evaluation_canvas

    def size_of(self, height: int, width: int) -> Size:
        """Returns (h, w) of an image of this size after resizing, without padding."""
        return self.transforms.evaluation_size(height, width)

    def __call__(self, sample: Sample, types: Types | None = None, zoom: float = 1.0) -> Sample:
        """Returns the resized sample: targets on the new grid, without crowds, with `size` and `original_size`.

        types: the target type of each key; by default the registered ones. zoom: the scale of the image's sides
        relative to evaluation.
        """
        types = TargetTypes() if types is None else types
        pixels, original_size = to_pixels(sample["image"]), image_size(sample)
        size = self.size_of(*original_size)
        values = {
            key: types[key].resize(value, original_size, size, zoom)
            for key, value in usable_values(sample, types).items()
        }
        return finished(resize_image(pixels, size), sample, values, original_size, self.canvas)


class WithoutAugmentation:
    """A training transform that resizes as in evaluation. The generator is not used.

    evaluation: the evaluation transform at the image size of this training transform. reference: the transforms of
    evaluation, to whose size zooms are relative.
    """

    def __init__(self, evaluation: EvaluationTransform, reference: Transforms | None = None) -> None:
        self.evaluation, self.reference = evaluation, reference or evaluation.transforms

    def __call__(self, sample: Sample, rng: np.random.Generator, types: Types | None = None) -> Sample:
        original = image_size(sample)
        return self.evaluation(sample, types, zoom_of(self.evaluation.size_of(*original), original, self.reference))


# ---- images and targets as arrays ----


def to_pixels(image: Tensor) -> np.ndarray:
    """Converts a (C, H, W) tensor to an (H, W, C) array, without a copy if the memory layout allows it."""
    if image.is_contiguous() and 1 < len(image) <= _MOST_CHANNELS:
        return cv2.merge([plane.numpy() for plane in image])
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def image_size(sample: Sample) -> Size:
    """Returns (H, W) of the image."""
    return (int(sample["image"].shape[-2]), int(sample["image"].shape[-1]))


def usable_values(sample: Sample, types: Types) -> Values:
    """Returns the sample's typed targets as arrays, clipped to the image, without objects that cannot be trained on:
    crowds, and boxes without area. Raises DataError as `checked_values`.
    """
    size, values = image_size(sample), checked_values(sample, types)
    usable = (types[key].usable(value, size) for key, value in values.items() if types[key].per == "object")
    masks = [mask for mask in usable if mask is not None]
    values = {key: types[key].clip(value, size) for key, value in values.items() if not types[key].truth_only}
    return selected(values, types, np.logical_and.reduce(masks) if masks else None)


def checked_values(sample: Sample, types: Types) -> Values:
    """Returns the sample's typed targets as arrays. Raises DataError with the image's id for an invalid value and for
    values per object of different lengths.
    """
    size, targets = image_size(sample), sample["targets"]
    values = {key: as_numpy(value) for key, value in targets.items() if key in types}
    try:
        check_values(values, types, size)
    except DataError as error:
        raise DataError(f"image {targets.get('image_id')!r}: {error}") from None
    return values


def visible_values(values: Values, types: Types, size: Size) -> Values:
    """Clips the values of a cropped image, and drops objects outside of it."""
    for key in [key for key in values if types[key].per == "object"]:  # in order: later types see fewer objects
        values = selected(values, types, types[key].visible(values[key], size))
    return {key: types[key].clip(value, size) for key, value in values.items()}


def selected(values: Values, types: Types, keep: np.ndarray | None) -> Values:
    """Selects objects: keep, (N,) bool; None keeps all."""
    if keep is None or keep.all():
        return values
    return {key: value[keep] if types[key].per == "object" else value for key, value in values.items()}


def as_numpy(value: Any) -> Any:
    """Returns tensors as arrays, other values unchanged."""
    return value.numpy() if isinstance(value, Tensor) else value


def as_tensor(value: Any) -> Any:
    """Returns arrays as tensors, other values unchanged."""
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def finished(pixels: np.ndarray, sample: Sample, values: Values, original_size: Size, canvas: Size | None) -> Sample:
    """Builds the sample of resized pixels (h, w, C), padded to the canvas if there is one.

    values: the transformed values; other keys of the sample pass through if they are metadata.
    """
    size = (pixels.shape[0], pixels.shape[1])
    planes = np.empty((pixels.shape[2], *size), pixels.dtype)
    for i in range(0, len(planes), _MOST_CHANNELS):
        cv2.split(pixels[..., i : i + _MOST_CHANNELS], list(planes[i : i + _MOST_CHANNELS]))
    if canvas is not None and canvas != size:
        planes = np.pad(planes, ((0, 0), (0, canvas[0] - size[0]), (0, canvas[1] - size[1])))
    targets = {key: value for key, value in sample["targets"].items() if is_metadata(value) or key == "image_id"}
    targets |= {key: as_tensor(value) for key, value in values.items()}
    return {"image": torch.from_numpy(planes), "targets": targets | {"size": size, "original_size": original_size}}


def new_pixels(image: np.ndarray, channels: Channels) -> np.ndarray:
    """Returns the values (C, 1, 1) of pixels added to an image (C, H, W): missing (NaN) in float32, black in 8-bit RGB,
    and in other integers the mean of each channel of this image."""
    if image.dtype == np.float32:
        return np.full((len(image), 1, 1), np.nan, np.float32)
    if channels.is_rgb and image.dtype == np.uint8 and len(image) == 3:
        return np.zeros((3, 1, 1), np.uint8)
    return image.mean((1, 2), keepdims=True).round().astype(image.dtype)


# ---- resampling ----


def resize_image(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Resizes an image (H, W, C) to `size`, (h, w): bilinear, with antialiasing when it shrinks.

    uint8 results differ by at most one level from Pillow and torchvision, with which official weights were trained.
    Uses torch's kernel, or OpenCV's, which is faster, if no side shrinks. Missing pixels: see
    `missing_pixels.resampled`.
    """
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels
    enlarges = size[0] >= height and size[1] >= width
    return resampled(
        torch.from_numpy(pixels),
        lambda x: torch.from_numpy((_enlarged if enlarges else _shrunk)(x.numpy(), size)),
    ).numpy()


def _enlarged(pixels: np.ndarray, size: Size) -> np.ndarray:
    return by_channels(lambda x: cv2.resize(x, size[::-1], interpolation=cv2.INTER_LINEAR), pixels)


def _shrunk(pixels: np.ndarray, size: Size) -> np.ndarray:
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    if planes.dtype == torch.uint16:  # torch has no kernel for it
        planes = planes.float()
    resized = F.interpolate(planes, size, mode="bilinear", antialias=True)[0]
    resized = resized.round_().to(torch.uint16) if pixels.dtype == np.uint16 else resized
    return np.ascontiguousarray(resized.permute(1, 2, 0).numpy())


def by_channels(function: Callable[..., np.ndarray], *arrays: np.ndarray, most: int = _MOST_CHANNELS) -> np.ndarray:
    """Applies an OpenCV function to arrays (..., C), at most `most` channels at a time. Returns (h, w, C): restores the
    axis of a single channel, which OpenCV drops."""
    starts = range(0, arrays[0].shape[-1], most)
    parts = [function(*(array[..., i : i + most] for array in arrays)) for i in starts]
    return parts[0].reshape(*parts[0].shape[:2], -1) if len(parts) == 1 else np.dstack(parts)
