"""Checks of batches and targets, the same for every way to train a model."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from densevit.channels import RGB, Channels
from densevit.errors import ConfigError, DataError
from densevit.interfaces import Head, Targets, TargetType
from densevit.targets.object_targets import Boxes, ObjectLabels, check_range
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.types import as_array

_ANY = (math.inf, math.inf)
_BATCH = (
    "a dict of images, padding_mask and targets is expected. Fix: let the data set return {'image': ..., 'targets': "
    "...} and give the loader collate_fn=densevit.collate."
)
_TARGET = {  # the keys of every target
    "image_id": "the image's id, an int or a string",
    "size": "(height, width) of the image in the batch, without padding",
    "original_size": "(height, width) of the image file",
}


def check_batch(batch: Any, channels: Channels = RGB) -> None:
    """Raises DataError unless `batch` is a valid input of the model (`Batch`).

    Example:
        >>> scenes = densevit.create_dataset("scenes", image_size=64)
        >>> batch = densevit.collate([scenes[0], scenes[1]])
        >>> densevit.model.check_batch({**batch, "images": batch["images"].float()})
        Traceback (most recent call last):
        densevit.errors.DataError: The loader's first batch: images is float32 (2, 3, 64, 64); uint8 (B, 3, H, W), ...
    """
    if not isinstance(batch, Mapping):
        raise DataError(f"The loader's first batch is a {type(batch).__name__}; {_BATCH}")
    lacking = [key for key in ("images", "padding_mask", "targets") if key not in batch]
    if lacking:
        received = ", ".join(map(str, batch)) or "nothing"
        raise DataError(f"The loader's first batch lacks {', '.join(lacking)}; found: {received}. {_BATCH}")
    images, mask, targets = batch["images"], batch["padding_mask"], batch["targets"]
    dtype, depth = getattr(torch, channels.dtype), len(channels.names)
    meaning = "RGB" if channels.is_rgb else str(channels)
    valid = isinstance(images, Tensor) and images.dtype == dtype and images.ndim == 4 and images.shape[1] == depth
    _expect(valid, f"images is {described(images)}; {channels.dtype} (B, {depth}, H, W), {meaning}, is expected")
    shape = (len(images), *images.shape[2:])
    valid = isinstance(mask, Tensor) and mask.dtype == torch.bool and tuple(mask.shape) == shape
    _expect(valid, f"padding_mask is {described(mask)}; bool {shape}, True = padding, is expected")
    is_list = isinstance(targets, Sequence)
    received = f"targets is a {type(targets).__name__}{f' of {len(targets)}' if is_list else ''}"
    valid = is_list and len(targets) == len(images)
    _expect(valid, f"{received}; a list of {len(images)} dicts, one per image, is expected")
    for index, target in enumerate(targets):
        _check_target(target, f"The loader's first batch: targets[{index}]", tuple(_TARGET), shape[1:])


def _expect(valid: bool, problem: str) -> None:
    if not valid:
        raise DataError(f"The loader's first batch: {problem}.")


def check_targets(targets: Sequence[Targets], head: Head, types: Mapping[str, TargetType], is_first: bool) -> bool:
    """Raises DataError for objects that a head cannot learn from: without `size`, not tensors, or with wrong values.

    types: the types of the head's keys. Compares values on the CPU; on other devices, which that synchronises, in the
    first batch only. Returns whether there were values to compare.
    """
    object_keys = [key for key in head.required_targets if getattr(types.get(key), "per", "") == "object"]
    for index, target in enumerate(targets):
        keys = [key for key in object_keys if key in target]
        has_boxes = any(isinstance(types[key], Boxes) for key in keys)
        _check_target(target, f"targets[{index}]", ("size",) if has_boxes else ())
        for key in keys:
            if not isinstance(target[key], Tensor | RunLengthMasks):
                raise DataError(f"targets[{index}]: {key} is {described(target[key])}; a tensor is expected.")
    has_values = False
    for key in object_keys:
        values = [target[key] for target in targets if isinstance(target.get(key), Tensor)]
        if not any(value.numel() for value in values) or not (is_first or values[0].device.type == "cpu"):
            continue
        has_values = True
        try:
            value = as_array(torch.cat(values))
            size, key_type = tuple(targets[0].get("size", (1, 1))), types[key]
            key_type.check(value, size)
            if is_first and isinstance(key_type, Boxes):
                key_type.check_scale(value, size)
            if isinstance(types[key], ObjectLabels) and head.classes:
                check_range(value, 0, len(head.classes) - 1)
        except (DataError, RuntimeError) as error:  # RuntimeError: values of different shapes
            images = [target.get("image_id", index) for index, target in enumerate(targets)]
            raise DataError(f"The targets of images {images}: {key} {error}") from None
    return has_values


def check_partial_labels(name: str, head: Head | type[Head]) -> None:
    """Raises ConfigError for a head of objects or segments without `partial_labels`. name: the head's, for messages."""
    if not head.partial_labels and not {"labels", "panoptic"}.isdisjoint(head.required_targets):
        raise ConfigError(
            f"{name} would learn that objects of the classes that are not labelled in an image (`labelled_classes`, or "
            "`neg_category_ids` of a COCO json) are background. Fix: use a head without proposals of any class, such "
            "as rtdetr, or dino with class_proposals; or images in which all classes are labelled."
        )


def _check_target(target: Any, where: str, keys: Sequence[str], image_size: tuple[float, ...] = _ANY) -> None:
    if not isinstance(target, Mapping):
        raise DataError(f"{where} is a {type(target).__name__}; a dict is expected.")
    for key in keys:
        if key not in target:
            raise DataError(f"{where} lacks {key!r}; found: {', '.join(target)}. Fix: set it to {_TARGET[key]}.")
    check_sizes(target, image_size, where)


def check_sizes(targets: Mapping[str, Any], image_size: tuple[float, ...], origin: str) -> None:
    """Raises DataError unless `size` and `original_size`, where the targets have them, are two positive ints each, and
    `size` is within the image. image_size: its height and width."""
    for key, limits in (("size", image_size), ("original_size", _ANY)):
        size = targets.get(key, (1, 1))
        if not isinstance(size, tuple | list) or [isinstance(side, Integral) for side in size] != [True, True]:
            raise DataError(
                f"{origin}: {key} is {size!r}, a {type(size).__name__}; a tuple of two ints, (height, width), is "
                f"expected. Fix: {key} = tuple(map(int, {key}))."
            )
        if not all(0 < side <= limit for side, limit in zip(size, limits, strict=True)):
            raise DataError(
                f"{origin}: {key} is {size}, and the image has (height, width) {image_size}. Fix: set size to that of "
                "the image, without padding."
            )


def described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {type(value).__name__}"
