"""Checks of samples and image sizes: shapes and types, not pixels."""

from typing import Any

import numpy as np
from torch import Tensor

from densevit.channels import RGB, Channels
from densevit.errors import DataError
from densevit.interfaces import Dataset, Sample, Targets
from densevit.model.target_checks import check_sizes
from densevit.targets.types import TargetTypes, untyped_keys


def check_sample(sample: Sample, dataset: Dataset, index: int, types: TargetTypes, channels: Channels = RGB) -> None:
    """Raises DataError for an image with other channels than the data set's, and for a target without a type.

    Target types check the values (`usable_values`).
    """
    targets = sample["targets"]
    origin = f"Sample {index} of {name_of(dataset)} (image {targets.get('image_id')!r})"
    check_image(sample["image"], targets, origin, channels)
    unknown = untyped_keys(targets, types)
    if unknown:
        key, value = unknown[0], targets[unknown[0]]
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise DataError(
            f"{origin} has the target {key!r}, a {type(value).__name__}{shape}, but no target type to resize, crop and "
            f"flip it. Keys with types: {', '.join(types)}. Fix: use one of these keys, or give the type in `provides` "
            "(docs/own-target.md); without a type only strings and single numbers are passed on."
        )


def check_image(image: Any, targets: Targets, origin: str, channels: Channels = RGB) -> None:
    """Raises DataError for an image that is not (C, H, W) in the type of these channels, and for invalid sizes, see
    `check_sizes`.

    origin: the data set and the image, for messages.
    """
    count = len(channels.names)
    expected = (
        f"{channels.dtype} ({count}, H, W) on the CPU is expected, {channels}, not normalised: the model does that."
    )
    if not isinstance(image, Tensor):
        fix = f"torch.from_numpy(image).permute(2, 0, 1) of an array (H, W, {count})"
        raise DataError(f"{origin}: the image is a {type(image).__name__}; {expected} Fix: {fix}.")
    dtype, shape = str(image.dtype).removeprefix("torch."), tuple(image.shape)
    if dtype != channels.dtype or len(shape) != 3 or shape[0] != count or 0 in shape or image.device.type != "cpu":
        fix = "convert it, or let the data set's `channels` say what its images are"
        if channels.is_rgb and image.is_floating_point():
            fix = "(image * 255).round().to(torch.uint8) of values in 0 ... 1"
        elif len(shape) == 3 and shape[2] == count != shape[0]:
            fix = "image.permute(2, 0, 1)"
        raise DataError(f"{origin}: the image is {dtype} {shape} on {image.device}; {expected} Fix: {fix}.")
    check_sizes(targets, shape[1:], origin)


def image_sizes(dataset: Dataset) -> np.ndarray | None:
    """Returns the data set's `sizes`. Raises DataError if they are not one height and width for each image."""
    sizes = dataset.sizes()
    if sizes is not None and np.shape(sizes) != (len(dataset), 2):
        raise DataError(
            f"{name_of(dataset)}: sizes() has the shape {np.shape(sizes)}. Fix: return ({len(dataset)}, 2), the height "
            "and width of each image."
        )
    return None if sizes is None else np.asarray(sizes)


def name_of(dataset: Dataset) -> str:
    """Returns the qualified name of a data set's class."""
    return f"{type(dataset).__module__}.{type(dataset).__name__}"
