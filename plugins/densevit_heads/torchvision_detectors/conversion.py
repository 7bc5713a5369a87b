"""Conversion of targets and detections between densevit and torchvision's detectors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from densevit.interfaces import Predictions, Targets
from densevit.layers.tracing import as_tensor
from densevit.losses.boxes import has_objects
from densevit.losses.distributed import to_device

Size = tuple[int, int]


def labelled_images(targets: list[Targets]) -> list[int]:
    """The indices of the images with `boxes` and `labels`."""
    return [i for i, target in enumerate(targets) if has_objects(target)]


def select(x: Tensor, images: Sequence[int]) -> Tensor:
    """The rows (I, ...) of these images of x (B, ...)."""
    return x if len(images) == len(x) else x.index_select(0, to_device(torch.tensor(images), x.device))


def training_targets(
    targets: list[Targets], images: Sequence[int], device: torch.device, first_label: int
) -> list[dict[str, Tensor]]:
    """`boxes` (N, 4) xyxy float32 and `labels` (N,) int64 of these images, without boxes that have no area.

    torchvision refuses such boxes: their size has no logarithm. Also `labelled`, if a target has it. first_label: label
    of class 0, which is 1 where 0 is the background. Crowds are no training targets: transforms remove them.
    """
    converted = []
    for target in (targets[i] for i in images):
        boxes, labels = target["boxes"].float(), target["labels"].long() + first_label
        valid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        objects = {"boxes": to_device(boxes[valid], device), "labels": to_device(labels[valid], device)}
        converted.append({**objects, **({"labelled": target["labelled"]} if "labelled" in target else {})})
    return converted


def image_sizes(padding_mask: Tensor) -> list[Size]:
    """(h, w) of each image without padding, from the mask (B, H, W); copied to the CPU once."""
    inside = ~padding_mask
    sizes = torch.stack([inside[:, :, 0].sum(dim=1), inside[:, 0].sum(dim=1)], dim=1)
    return [(h, w) for h, w in sizes.tolist()]


def in_original_pixels(boxes: Tensor, scores: Tensor, labels: Tensor, target: Targets) -> Predictions:
    """Predictions of an image from boxes (N, 4) xyxy on its resized grid."""
    (h, w), (H, W) = target["size"], target["original_size"]
    zoom = as_tensor([W / w, H / h, W / w, H / h])
    return {"boxes": boxes * to_device(zoom, boxes.device), "scores": scores, "labels": labels}
