"""Post-processing: non-maximum suppression (NMS), and boxes in pixels of the image file."""

import torch
from torch import Tensor

from densevit.interfaces import Outputs, Predictions, Targets
from densevit.layers.nms import class_nms
from densevit.losses.boxes import clipped_corners
from densevit.losses.distributed import to_device
from densevit.set_prediction.predictions import class_scores, image_sides

CANDIDATES = 1000  # (cell, class) pairs of an image that enter NMS, as in RetinaNet
PER_PREDICTION = 10  # pairs that enter NMS for each prediction, if there are more than 100


def suppressed_predictions(outputs: Outputs, targets: list[Targets], nms: float, count: int) -> list[Predictions]:
    """The `count` (cell, class) pairs with the highest scores after NMS of each image and class, of all images at once.

    outputs: `logits` (B, S, K), `boxes` (B, S, 4) cxcywh and `padding` (B, S). nms: the IoU of duplicates.
    """
    return suppressed(clipped_corners(outputs["boxes"]), cell_scores(outputs), targets, nms, count)


def cell_scores(outputs: Outputs) -> Tensor:
    """Scores (B, S, K) of cells: 0 in padding."""
    return class_scores(outputs["logits"]).masked_fill(outputs["padding"][..., None], 0.0)


def suppressed(boxes: Tensor, scores: Tensor, targets: list[Targets], nms: float, count: int) -> list[Predictions]:
    """Like `suppressed_predictions`, from boxes (B, S, 4) xyxy in 0 ... 1 and `cell_scores`."""
    B, S, K = scores.shape
    candidates = max(CANDIDATES, PER_PREDICTION * count)
    scores, index = scores.flatten(1).topk(torch.sym_min(candidates, S * K), dim=1)
    labels = index % K
    boxes = boxes.gather(1, (index // K)[..., None].expand(-1, -1, 4))
    boxes = boxes * image_sides(targets, "original_size", boxes.device)
    image = torch.arange(B, device=index.device)[:, None]
    groups = (image * K + labels).flatten()
    kept = class_nms(boxes.flatten(0, 1), scores.flatten(), groups, nms)  # by descending score
    mask = torch.zeros_like(scores, dtype=torch.bool).flatten().index_fill(0, kept, True).view_as(scores)
    mask &= scores > 0  # not in padding
    predictions = []
    for i, kept in enumerate(mask.cpu()):  # one transfer
        rows = to_device(kept.nonzero()[:count, 0], boxes.device)
        predictions.append({"boxes": boxes[i, rows], "scores": scores[i, rows], "labels": labels[i, rows]})
    return predictions
