"""Checks of batches and targets, the same for every way to train a model."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from densevit.channels import RGB, Channels
from densevit.errors import ConfigError, DataError
from densevit.interfaces import Head, TargetType
from densevit.model.target_checks import GENERAL_TARGETS, TargetChecks, check_target, described
from densevit.targets.types import TargetTypes

_BATCH = (
    "a dict of images, padding_mask and targets is expected. Fix: let the data set return {'image': ..., 'targets': "
    "...} and give the loader collate_fn=densevit.collate."
)


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
        check_target(target, f"The loader's first batch: targets[{index}]", tuple(GENERAL_TARGETS), shape[1:])
    types = TargetTypes()
    keys = {key for target in targets for key in target if key in types and _is_checked(types[key])}
    try:
        TargetChecks("", types, sorted(keys)).checked(targets, set(), refused="invalid")
    except DataError as error:
        raise DataError(f"The loader's first batch: {error}") from None


def _expect(valid: bool, problem: str) -> None:
    if not valid:
        raise DataError(f"The loader's first batch: {problem}.")


def _is_checked(target_type: TargetType) -> bool:
    """Whether a type without the options of its data set checks values as the data set's does."""
    return not target_type.truth_only and not signature(type(target_type)).parameters


def check_step(targets: Any, batches: int | None) -> None:
    """Raises DataError unless the targets of an optimiser step are one list per batch of one dict per image, and
    `batches` is None or at least 1."""
    expected = "a list of dicts, one per image, with `size`"
    fix = 'Fix: loss_context([batch["targets"] for batch in batches]).'
    if not isinstance(targets, Sequence) or not targets or not (batches is None or batches >= 1):
        number = "" if batches is None else f" and batches={batches}"
        raise DataError(f"loss_context: targets is {described(targets)}{number}; at least 1 batch is expected. {fix}")
    for index, batch in enumerate(targets):
        if not isinstance(batch, Sequence) or not all(isinstance(target, Mapping) for target in batch):
            raise DataError(f"loss_context: targets[{index}] is {described(batch)}; {expected}, is needed. {fix}")


def check_partial_labels(name: str, head: Head | type[Head]) -> None:
    """Raises ConfigError for a head of objects or segments without `partial_labels`. name: the head's, for messages."""
    if not head.partial_labels and not {"labels", "panoptic"}.isdisjoint(head.required_targets):
        raise ConfigError(
            f"{name} would learn that objects of the classes that are not labelled in an image (`labelled_classes`, or "
            "`neg_category_ids` of a COCO json) are background. Fix: use a head without proposals of any class, such "
            "as rtdetr, or dino with class_proposals; or images in which all classes are labelled."
        )
