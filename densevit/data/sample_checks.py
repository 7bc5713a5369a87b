"""Checks of a data set's samples and of a batch's samples: shapes and types, not pixels."""

from typing import Any

import torch
from torch import Tensor

from densevit.channels import RGB, Channels
from densevit.errors import DataError
from densevit.interfaces import Dataset, Sample, Targets
from densevit.targets.objects import InstanceMasks
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.types import TargetTypes, untyped_keys


def check_sample(sample: Sample, dataset: Dataset, index: int, types: TargetTypes, channels: Channels = RGB) -> None:
    """Raises DataError for an image that is not of the data set's channels, and for a target without a type.

    The values of targets are checked by their types, see `usable_values`.
    """
    targets = sample["targets"]
    origin = f"Sample {index} of {name_of(dataset)} (image {targets.get('image_id')!r})"
    check_image(sample["image"], targets, origin, channels)
    unknown = untyped_keys(targets, types)
    if unknown:
        key, value = unknown[0], targets[unknown[0]]
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise DataError(
            f"{origin} has the target {key!r}, a {type(value).__name__}{shape}, and no target type to resize, crop and "
            f"flip it. Keys with types: {', '.join(types)}. Fix: use one of these keys, or give the type in `provides` "
            "(docs/own-target.md); without a type only strings and single numbers are passed on."
        )


def check_collated(sample: Sample, place: int, types: TargetTypes, channels: Channels = RGB) -> None:
    """Raises DataError for an image that is not (C, H, W) of these channels, and for maps and masks whose (h, w) is not
    that of the image without padding. place: position in the batch.
    """
    image, targets = sample["image"], sample["targets"]
    origin = f"Sample {place} of a batch (image {targets.get('image_id')!r})"
    check_image(image, targets, origin, channels)
    size = tuple(targets.get("size", image.shape[1:]))
    for key, value in targets.items():
        kind = types.get(key) if isinstance(value, Tensor | RunLengthMasks) else None
        if isinstance(kind, InstanceMasks):
            try:
                kind.check(value, size)
            except DataError as error:
                raise DataError(f"{origin}: {key} {error}") from None
        elif kind is not None and kind.per == "pixel" and tuple(value.shape[-2:]) != size:
            raise DataError(
                f"{origin}: {key} has shape {tuple(value.shape)}; its last two sides must be the targets' size, {size}."
                " Fix: resize the image and its targets alike."
            )


def check_image(image: Any, targets: Targets, origin: str, channels: Channels = RGB) -> None:
    """Raises DataError for an image that is not (C, H, W) of these channels and their type, or smaller than the
    targets' `size`, if that is given.

    origin: the data set and the image, for messages.
    """
    if not isinstance(image, Tensor):
        fix = "torch.from_numpy(image).permute(2, 0, 1)"
        raise DataError(
            f"{origin}: the image is a {type(image).__name__}; {_EXPECTED} Fix: {fix} of an array (H, W, 3)."
        )
    kind, count = str(image.dtype).removeprefix("torch."), len(channels.names)
    is_expected = kind == channels.dtype and image.ndim == 3 and len(image) == count and 0 not in image.shape
    if not channels.is_rgb and not (is_expected and image.device.type == "cpu"):
        raise DataError(
            f"{origin}: the image is {kind} {tuple(image.shape)} on {image.device}; {channels.dtype} ({count}, H, W) "
            f"on the CPU is expected, the data set's channels: {channels}."
        )
    fix = _fix(image) if channels.is_rgb else ""
    if fix:
        raise DataError(
            f"{origin}: the image is {kind} {tuple(image.shape)} on {image.device}; {_EXPECTED} Fix: {fix}."
        )
    size, found = targets.get("size"), tuple(image.shape[1:])
    if size is None:
        return
    pair = isinstance(size, tuple | list) and len(size) == 2
    if not pair or not all(0 < side <= limit for side, limit in zip(size, found, strict=True)):
        raise DataError(
            f"{origin}: the targets' size is {size}, and the image has (height, width) {found}. Fix: set size to that "
            "of the image, without padding."
        )


_EXPECTED = "uint8 (3, H, W) on the CPU is expected, RGB in 0 ... 255, not normalised: the model does that."


def _fix(image: Tensor) -> str:
    """The expression that makes an image (3, H, W) uint8; empty if it is valid."""
    if image.is_floating_point():
        return "(image * 255).round().to(torch.uint8) of values in 0 ... 1"
    if image.dtype == torch.bool:
        return "image.to(torch.uint8) * 255"
    if image.dtype in (torch.uint16, torch.int16):
        return "(image.int() // 257).to(torch.uint8) of values in 0 ... 65535"
    if image.dtype != torch.uint8:
        return "image.to(torch.uint8) of values in 0 ... 255"
    if image.ndim == 3 and image.shape[2] in (1, 3, 4) and image.shape[0] not in (1, 3, 4):
        return "image.permute(2, 0, 1)"
    if image.ndim == 2 or (image.ndim == 3 and image.shape[0] == 1):
        return "image.expand(3, -1, -1) of a grey image"
    if image.ndim != 3 or image.shape[0] != 3:
        return "image[:3] leaves out further channels, such as alpha"
    if 0 in image.shape:
        return "leave out images without pixels"
    return "" if image.device.type == "cpu" else "image.cpu()"


def name_of(dataset: Dataset) -> str:
    """Returns the name of a data set's class, with its module."""
    return f"{type(dataset).__module__}.{type(dataset).__name__}"
