"""Targets from the predictions of a teacher, on the grid of a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from densevit.errors import ConfigError
from densevit.interfaces import IGNORE, Batch, DenseHead, Head, Predictions, Targets
from densevit.losses.depth import valid_pixels
from densevit.losses.distributed import cpu_copy_of, to_device

_KEYS = ({"boxes", "labels"}, {"semantic"}, {"depth"})  # the targets that can be predicted


@torch.no_grad()
def predicted_targets(
    teacher: Any, batch: Batch, score_thresholds: Mapping[str, float], pixel_threshold: float
) -> dict[str, list[Targets]]:
    """Returns the predictions of each head of a teacher, a `DenseModel` in evaluation mode, as the targets that the
    head needs, without `image_id` and sizes.

    score_thresholds: the least score of each head's objects; objects below are left out. pixel_threshold: pixels of a
    class map whose class has a smaller probability, by the softmax of the head's `maps`, are ignored.
    """
    grids = [{**without_labels(target), "original_size": target["size"]} for target in batch["targets"]]
    outputs = teacher({**batch, "targets": grids})
    predictions = teacher.predictions(outputs, grids)
    head_targets = {}
    for name, head in teacher.heads.items():
        probabilities: list[Tensor | None] = [None] * len(grids)
        if "semantic" in head.required_targets:
            maps = head.maps(outputs[name], tuple(batch["images"].shape[2:]))
            probabilities = list(maps.softmax(1).amax(1))  # (H, W) each
        camera = {} if head.canonical_focal is None else {"focal": head.canonical_focal}  # of predicted depth
        if "boxes" in head.required_targets:
            sizes = [grid["size"] for grid in grids]
            head_targets[name] = _objects(predictions[name], sizes, score_thresholds.get(name, 0.0))
            continue
        head_targets[name] = [
            _maps(prediction, grid["size"], probability, pixel_threshold) | camera
            for prediction, grid, probability in zip(predictions[name], grids, probabilities, strict=True)
        ]
    return head_targets


def _objects(
    predictions: Sequence[Predictions], sizes: Sequence[tuple[int, int]], score_threshold: float
) -> list[Targets]:
    """The objects of images from predictions on their grids, (h, w) each. One transfer to the CPU."""
    targets, keep = [], []
    for prediction, (height, width) in zip(predictions, sizes, strict=True):
        boxes = prediction["boxes"].float().clamp(min=0)
        boxes = boxes.minimum(to_device(boxes.new_tensor([width, height, width, height], device="cpu"), boxes.device))
        targets.append({"boxes": boxes, "labels": prediction["labels"]})
        keep.append((prediction["scores"] >= score_threshold) & (boxes[:, 2:] > boxes[:, :2]).all(1))
    return selected(targets, keep)


def selected(targets: Sequence[Targets], keep: Sequence[Tensor]) -> list[Targets]:
    """The objects of images for which `keep`, (N,) bool each, is true. One transfer to the CPU."""
    counts = [len(x) for x in keep]
    rows = [to_device(x.nonzero()[:, 0], keep[0].device) for x in torch.cat([*keep]).cpu().split(counts)]
    return [{key: x[index] for key, x in target.items()} for target, index in zip(targets, rows, strict=True)]


def _maps(
    prediction: Predictions, size: tuple[int, int], probability: Tensor | None, pixel_threshold: float
) -> Targets:
    """The targets of one image from a map on its grid. probability: (H, W) of each pixel's class."""
    height, width = size
    if probability is not None:
        sure = probability[:height, :width] >= pixel_threshold
        return {"semantic": prediction["semantic"].masked_fill(~sure, IGNORE)}
    if "depth" in prediction:
        return {"depth": prediction["depth"]}
    inverse = prediction["inverse_depth"]
    return {"depth": torch.where(inverse > 0, 1 / inverse, 0.0)}


def check_head(name: str, head: Head, method: str) -> None:
    """Raises ConfigError if the targets of a head cannot be predicted. method: its name, for the message."""
    if not any(keys == set(head.required_targets) for keys in _KEYS):
        raise ConfigError(
            f"heads.{name} needs {', '.join(head.required_targets)}; the method {method} predicts boxes and labels, "
            "semantic, or depth. Fix: use another head, or another method."
        )
    if "semantic" in head.required_targets and not isinstance(head, DenseHead):
        raise ConfigError(
            f"heads.{name}: {type(head).__name__} is no DenseHead, whose maps have the probabilities of the classes. "
            "Fix: use another head, or another method."
        )


def missing_labels(heads: Mapping[str, Head], target: Targets) -> list[str]:
    """The names of the heads whose labels an image lacks, or whose map has no labelled pixel."""
    return [name for name, head in heads.items() if not all(_has_label(target, key) for key in head.required_targets)]


def _has_label(target: Targets, key: str) -> bool:
    if key == "semantic" and key in target:
        return bool((cpu_copy_of(target[key]) != IGNORE).any())
    if key == "depth" and key in target:
        return bool(valid_pixels(cpu_copy_of(target[key]))[0].any())
    return key in target


def without_labels(target: Targets) -> Targets:
    return {key: target[key] for key in ("image_id", "size", "original_size")}
