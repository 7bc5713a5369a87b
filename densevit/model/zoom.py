"""The zoom of an image relative to evaluation: training divides labels such as metric depth by it, and predictions at
another size than that of the training's evaluation are multiplied by it. Predictions for a canonical camera are
multiplied by the image's focal length relative to that camera's instead."""

import copy
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import torch

from densevit import registry
from densevit.config import DataSection
from densevit.interfaces import Predictions, Size, Targets, TargetType, Transforms
from densevit.losses.depth import focal_of
from densevit.targets.types import TargetTypes


def create_transforms(section: DataSection) -> Transforms:
    """Builds the transforms that a data section names."""
    return cast(
        Transforms,
        copy.copy(  # `rescale` changes it
            registry.create(
                "transforms",
                section.transforms.name,
                section.image_size,
                options=section.transforms.options,
                where="data.transforms",
            )
        ),
    )


def zoom_of(size: Size, original_size: Size, reference: Transforms) -> Any:
    """The scale of an image's sides relative to the evaluation `reference`, the square root of the ratio of areas.

    size: (h, w) of the resized image. original_size: (H, W) before. Returns a float; a tensor () for symbols of
    `torch.export`.
    """
    return scale_of(size, reference.evaluation_size(*original_size))


def scale_of(size: Size, original_size: Size) -> Any:
    """The scale of an image's sides, the square root of the ratio of areas; a float or a tensor, as `zoom_of`."""
    areas = math.prod(size) / math.prod(original_size)
    return math.sqrt(areas) if isinstance(areas, float) else torch.full((), areas).sqrt()


def without_zoom(values: Mapping[str, Any], types: Mapping[str, TargetType] | None, zoom: Any) -> dict[str, Any]:
    """The values by key at zoom 1 (`TargetType.under_zoom`). types: the target types of keys with options. zoom: the
    result of `zoom_of`."""
    if isinstance(zoom, float) and zoom == 1:
        return {**values}
    types, factors = TargetTypes(types), {"divide": zoom, "multiply": 1 / zoom}
    return {
        key: value * factors[types[key].under_zoom] if key in types and types[key].under_zoom in factors else value
        for key, value in values.items()
    }


def at_reference_size(
    predictions: Mapping[str, list[Predictions]],
    targets: list[Targets],
    types: Mapping[str, Mapping[str, TargetType] | None],
    references: Mapping[str, Transforms],
    canonical_focals: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, list[Predictions]]:
    """The predictions of images with the zooms of the training's evaluation, and in metres of the images' cameras.

    predictions: one per image, for each head. targets: have the `size` and `original_size` of each image. types: the
    target types with options, for each head. references: the transforms of the evaluation of each head's training;
    predictions of heads without them do not change. canonical_focals: the focal length of each head's canonical camera;
    for these heads, targets have `focal`. Raises DataError as `focal_of`.
    """
    return {
        name: [
            without_zoom(prediction, types[name], zoom_for_head(name, target, references, canonical_focals))
            for prediction, target in zip(head_predictions, targets, strict=True)
        ]
        for name, head_predictions in predictions.items()
    }


def zoom_for_head(
    name: str, target: Targets, references: Mapping[str, Transforms], canonical_focals: Mapping[str, float]
) -> Any:
    """The zoom of an image for a head, for a canonical camera the focal length relative to that camera's, see
    `at_reference_size`. 1.0 for a head without either."""
    if name in canonical_focals:
        return focal_of(target) / canonical_focals[name]
    return zoom_of(target["size"], target["original_size"], references[name]) if name in references else 1.0
