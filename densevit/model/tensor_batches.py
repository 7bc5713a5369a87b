"""Batches of a model from tensors of images and labels, as other libraries have them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.channels import Channels
from densevit.errors import DataError
from densevit.interfaces import Batch, Head, Size, Targets
from densevit.layers.padding import padded
from densevit.model.running_checks import RunningChecks
from densevit.model.target_checks import TargetChecks, described
from densevit.targets.pixel_maps import PixelMap
from densevit.targets.run_length_masks import RunLengthMasks
from densevit.targets.types import TargetTypes

MOST_DEVIATIONS = 10  # standard deviations from the mean that pixels of 8 bits do not reach


class SupportsTensors(Protocol):
    """The part of a model that tensors of images and labels depend on."""

    heads: Mapping[str, Head]
    channels: Channels
    target_checks: Mapping[str, TargetChecks]
    checked: set[Any]
    running_checks: RunningChecks

    @property
    def padding(self) -> int | Size: ...


def as_batch(images: Batch | Tensor, model: SupportsTensors, targets: Any = None) -> Batch:
    """A batch of images (B, C, H, W), padded as the model needs, with their targets; a batch stays as it is.

    images: pixels of the channels' type; for 8-bit RGB also floats from 0 to 1. targets: masks (B, H, W), depth (B, H,
    W), or a list of dicts with `boxes`, `labels`, ...; None: none. Raises DataError for images of another type or range
    and for targets that no head takes.
    """
    if isinstance(images, Mapping):
        if missing := [key for key in ("images", "padding_mask") if key not in images]:
            raise DataError(
                f"The batch has no {' and '.join(missing)}, but {', '.join(map(str, images)) or 'nothing'}. Fix: model("
                "images), a tensor (B, C, H, W); or densevit.collate samples, which adds padding_mask (B, H, W)."
            )
        pixels = images["images"]
        if model.channels.is_rgb and pixels.is_floating_point() and pixels.numel():
            model.running_checks.update("batch", _negated_low_and_high(pixels), _check_batch_range)
        return images if targets is None else {**images, "targets": targets}
    if not isinstance(images, Tensor):
        raise DataError(
            f"images is {described(images)}; a tensor (B, C, H, W) or a batch is expected. Fix: torch.stack images of "
            "one size, densevit.collate samples, or model.predict, which reads files."
        )
    channels = model.channels
    dtype, count = getattr(torch, channels.dtype), len(channels.names)
    is_scaled = channels.is_rgb and images.is_floating_point()
    if images.ndim != 4 or images.shape[1] != count or not (images.dtype == dtype or is_scaled):
        floats = " or floats from 0 to 1" if channels.is_rgb else ""
        raise DataError(
            f"images is {described(images)}; {channels.dtype}{floats} (B, {count}, H, W), {channels}, is expected."
        )
    if is_scaled and images.numel():
        model.running_checks.update("images", _negated_low_and_high(images), _check_range)
    height, width = images.shape[2:]
    padded_height, padded_width = padded((height, width), model.padding)
    outside = (0, padded_width - width, 0, padded_height - height)
    mask = torch.zeros_like(images[:, 0], dtype=torch.bool)
    pixels = images.float() * 255 if is_scaled else images
    if any(outside):
        pixels, mask = F.pad(pixels, outside), F.pad(mask, outside, value=True)
    labels: Sequence[Targets] = [{}] * len(images) if targets is None else _labels(targets, len(images), model.heads)
    sizes = {"size": (height, width), "original_size": (height, width)}
    filled: list[Targets] = [{"image_id": i, **sizes, **target} for i, target in enumerate(labels)]
    for checks in model.target_checks.values() if targets is not None else ():
        filled = checks.checked(filled, model.checked, refused="implausible")
    return {"images": pixels, "padding_mask": mask, "targets": filled}


def _negated_low_and_high(images: Tensor) -> Tensor:
    """(2,), of which the larger ones are farther outside of a range."""
    low, high = images.detach().aminmax()
    return torch.stack([-low, high]).float()


def _check_batch_range(negated_low: float, high: float) -> None:
    """Raises DataError for a batch of floats that are normalised, or from 0 to 1, in place of 0 to 255."""
    low = -negated_low
    if (low < 0 and high <= MOST_DEVIATIONS) or low < high <= 1:
        fix = "leave normalisation out" if low < 0 else "multiply them by 255, or pass the tensor without a batch"
        raise DataError(
            f"images of the batch is float, from {low:.3g} to {high:.3g}; from 0 to 255 is expected. Fix: {fix}."
        )


def _check_range(negated_low: float, high: float) -> None:
    """Raises DataError for floats that are not from 0 to 1."""
    low = -negated_low
    if not 0 <= low <= high <= 1:
        fix = "divide them by 255, or pass uint8"
        if low < 0:
            fix = "leave normalisation out: the model normalises by the backbone's mean and std"
        elif math.isnan(low):
            fix = "replace NaN"
        raise DataError(f"images is float, from {low:.3g} to {high:.3g}; from 0 to 1 is expected. Fix: {fix}.")


def _labels(targets: Any, count: int, heads: Mapping[str, Head]) -> Sequence[Targets]:
    """The labels of each image."""
    if isinstance(targets, Tensor):
        return _maps(targets, count, heads)
    is_list = isinstance(targets, Sequence) and len(targets) == count
    if not is_list or not all(isinstance(target, Mapping) for target in targets):
        raise DataError(
            f"targets is {described(targets)}; a tensor or a list of {count} dicts, one per image, is expected."
        )
    return [_with_run_lengths(target) for target in targets]


def _with_run_lengths(target: Targets) -> Targets:
    """The target with its instance masks as `RunLengthMasks`. Raises DataError unless they are (N, H, W)."""
    masks = target.get("masks")
    if not isinstance(masks, Tensor):
        return target
    if masks.ndim != 3:
        raise DataError(f"masks is {described(masks)}; (N, H, W), one mask per object, is expected.")
    return {**target, "masks": RunLengthMasks.from_dense(masks.cpu().numpy() != 0, (masks.shape[1], masks.shape[2]))}


def _maps(maps: Tensor, count: int, heads: Mapping[str, Head]) -> list[Targets]:
    """Targets of one map per image: of the only key of maps that the heads need and that has this type."""
    maps = maps[:, 0] if maps.ndim == 4 and maps.shape[1] == 1 else maps
    keys = [
        key
        for head in heads.values()
        for key in head.required_targets
        if isinstance(key_type := TargetTypes(head.target_types).get(key), PixelMap)
        if maps.is_floating_point() == key_type.dtype.is_floating_point
    ]
    if maps.ndim != 3 or len(maps) != count or len({*keys}) != 1:
        required_targets = ", ".join(sorted({key for head in heads.values() for key in head.required_targets}))
        raise DataError(
            f"targets is {described(maps)}; the heads need {required_targets}: integers (B, H, W) for semantic, floats "
            f"(B, H, W) for depth, or a list of {count} dicts by these names, is expected."
        )
    return [{keys[0]: x} for x in maps]
