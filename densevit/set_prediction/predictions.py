"""Post-processing: scored boxes in pixels of the image file, without NMS."""

import torch
from torch import Tensor

from densevit.interfaces import Outputs, Predictions, Targets
from densevit.losses.boxes import to_corners
from densevit.losses.distributed import to_device


@torch.no_grad()
def top_predictions(outputs: Outputs, targets: list[Targets], softmax: bool = False) -> list[Predictions]:
    """Returns the Q top-scoring (query, class) pairs by descending score; with softmax, one class per query.

    outputs: `logits` (B, Q, K), or K+1 with softmax, and `boxes` (B, Q, 4) cxcywh.
    """
    boxes = to_corners(outputs["boxes"].float())
    scores, labels, query = top_queries(outputs["logits"], softmax)
    boxes = boxes.gather(1, query[..., None].expand(-1, -1, 4)).clamp(0, 1)
    sizes = torch.tensor([target["original_size"] for target in targets], dtype=torch.float32)
    boxes = boxes * to_device(sizes, boxes.device).flip(-1).repeat(1, 2)[:, None]
    return [{"boxes": boxes[i], "scores": scores[i], "labels": labels[i]} for i in range(len(boxes))]


def top_queries(logits: Tensor, softmax: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels and queries of the predictions, each (B, Q). logits: (B, Q, K), or K+1 with softmax."""
    logits = logits.float()
    _, Q, K = logits.shape
    if softmax:
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        scores, query = scores.sort(dim=1, descending=True, stable=True)
        return scores, labels.gather(1, query), query
    scores, index = logits.sigmoid().flatten(1).topk(Q, dim=1)
    return scores, index % K, index // K


def exported_predictions(outputs: Outputs, size: tuple[int, int], softmax: bool = False) -> dict[str, Tensor]:
    """All queries, for exported files: `boxes` (B, Q, 4) xyxy in pixels of `size` and `scores` (B, Q, K).

    outputs, softmax: as in `top_predictions`.
    """
    logits = outputs["logits"].float()
    scores = logits.softmax(-1)[..., :-1] if softmax else logits.sigmoid()
    h, w = size
    x0, y0, x1, y1 = to_corners(outputs["boxes"].float()).clamp(0, 1).unbind(-1)
    return {"boxes": torch.stack([x0 * w, y0 * h, x1 * w, y1 * h], dim=-1), "scores": scores}
