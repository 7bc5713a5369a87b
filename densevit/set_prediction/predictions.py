"""Post-processing of set prediction, which needs no NMS: boxes xyxy in pixels of the image file, with scores."""

from collections.abc import Mapping

import torch
from torch import Tensor

from densevit.interfaces import Outputs, Predictions, Targets
from densevit.layers.tracing import as_tensor
from densevit.losses.boxes import clipped_corners
from densevit.losses.distributed import to_device


@torch.no_grad()
def top_predictions(outputs: Outputs, targets: list[Targets], softmax: bool = False) -> list[Predictions]:
    """Returns the Q top-scoring (query, class) pairs by descending score; with softmax, one class per query.

    outputs: `logits` (B, Q, K), or K+1 with softmax, and `boxes` (B, Q, 4) cxcywh.
    """
    boxes = clipped_corners(outputs["boxes"])
    return _selected(boxes, class_scores(outputs["logits"], softmax), targets, softmax)


@torch.no_grad()
def top_exported(exported: Mapping[str, Tensor], targets: list[Targets], softmax: bool = False) -> list[Predictions]:
    """Like `top_predictions`, from `exported_predictions` in pixels of the targets' `size`."""
    return _selected(relative_boxes(exported["boxes"], targets), exported["scores"].float(), targets, softmax)


def _selected(boxes: Tensor, scores: Tensor, targets: list[Targets], softmax: bool) -> list[Predictions]:
    """The predictions of `top_predictions`, from boxes (B, Q, 4) xyxy in 0 ... 1 and scores (B, Q, K). The boxes of the
    result are in pixels of the targets' `original_size`."""
    scores, labels, query = top_scores(scores, softmax)
    boxes = boxes.gather(1, query[..., None].expand(-1, -1, 4)) * image_sides(targets, "original_size", boxes.device)
    return [{"boxes": boxes[i], "scores": scores[i], "labels": labels[i]} for i in range(len(boxes))]


def relative_boxes(boxes: Tensor, targets: list[Targets]) -> Tensor:
    """Converts boxes (B, Q, 4) xyxy from pixels of the targets' `size` to 0 ... 1."""
    return boxes.float() / image_sides(targets, "size", boxes.device)


def image_sides(targets: list[Targets], key: str, device: torch.device) -> Tensor:
    """(B, 1, 4): width, height, width, height of each image. key: `size` or `original_size`."""
    sizes = as_tensor([side for target in targets for side in tuple(target[key])]).view(-1, 2)
    return to_device(sizes, device).flip(-1).repeat(1, 2)[:, None]


def class_scores(logits: Tensor, softmax: bool = False) -> Tensor:
    """Probabilities (B, Q, K) in float32. logits: (B, Q, K), or K+1 with softmax, whose last class is "no object"."""
    logits = logits.float()
    return logits.softmax(-1)[..., :-1] if softmax else logits.sigmoid()


def top_scores(scores: Tensor, softmax: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels and queries of the predictions, each (B, Q). scores: (B, Q, K), of `class_scores`."""
    _, Q, K = scores.shape
    if softmax:
        scores, labels = scores.max(-1)
        scores, query = scores.sort(dim=1, descending=True, stable=True)
        return scores, labels.gather(1, query), query
    scores, index = scores.flatten(1).topk(Q, dim=1)
    return scores, index % K, index // K


def exported_predictions(outputs: Outputs, size: tuple[int, int], softmax: bool = False) -> dict[str, Tensor]:
    """All queries, for exported files: `boxes` (B, Q, 4) xyxy in pixels of `size` and `scores` (B, Q, K).

    outputs, softmax: the arguments of `top_predictions`.
    """
    scores = class_scores(outputs["logits"], softmax)
    h, w = size
    x0, y0, x1, y1 = clipped_corners(outputs["boxes"]).unbind(-1)
    return {"boxes": torch.stack([x0 * w, y0 * h, x1 * w, y1 * h], dim=-1), "scores": scores}
