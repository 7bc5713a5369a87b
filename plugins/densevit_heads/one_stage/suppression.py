"""Post-processing: non-maximum suppression (NMS), and boxes in pixels of the image file."""

import torch
from torchvision.ops import batched_nms

from densevit.interfaces import Outputs, Predictions, Targets
from densevit.losses.boxes import to_corners
from densevit.losses.distributed import to_device

CANDIDATES = 1000  # (cell, class) pairs of an image that enter NMS, as in RetinaNet


def suppressed_predictions(outputs: Outputs, targets: list[Targets], nms: float, count: int) -> list[Predictions]:
    """The `count` (cell, class) pairs with the highest scores after NMS of each image and class, of all images at once.

    outputs: `logits` (B, S, K), `boxes` (B, S, 4) cxcywh and `padding` (B, S). nms: the IoU of duplicates.
    """
    logits, boxes = outputs["logits"].float(), to_corners(outputs["boxes"].float()).clamp(0, 1)
    B, S, K = logits.shape
    scores = logits.sigmoid().masked_fill(outputs["padding"][..., None], 0.0)
    scores, index = scores.flatten(1).topk(min(CANDIDATES, S * K), dim=1)
    labels = index % K
    sizes = torch.tensor([target["original_size"] for target in targets], dtype=torch.float32)
    boxes = boxes.gather(1, (index // K)[..., None].expand(-1, -1, 4))
    boxes = boxes * to_device(sizes, boxes.device).flip(-1).repeat(1, 2)[:, None]
    image = torch.arange(B, device=index.device)[:, None]
    groups = (image * K + labels).flatten()
    kept = batched_nms(boxes.flatten(0, 1), scores.flatten(), groups, nms)  # by descending score
    mask = torch.zeros_like(scores, dtype=torch.bool).flatten().index_fill(0, kept, True).view_as(scores)
    mask &= ~outputs["padding"].gather(1, index // K)
    predictions = []
    for i in range(B):
        rows = mask[i].nonzero()[:count, 0]
        predictions.append({"boxes": boxes[i, rows], "scores": scores[i, rows], "labels": labels[i, rows]})
    return predictions
