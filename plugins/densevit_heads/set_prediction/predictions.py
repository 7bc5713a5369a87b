"""Post-processing: scored boxes in pixels of the image file, without NMS."""

import torch

from densevit.interfaces import Outputs, Predictions, Targets
from densevit.losses.boxes import to_corners
from densevit.losses.distributed import to_device


@torch.no_grad()
def top_predictions(outputs: Outputs, targets: list[Targets], softmax: bool = False) -> list[Predictions]:
    """Returns the Q top-scoring (query, class) pairs by descending score; with softmax, one class per query.

    outputs: `logits` (B, Q, K), or K+1 with softmax, and `boxes` (B, Q, 4) cxcywh.
    """
    logits, boxes = outputs["logits"].float(), to_corners(outputs["boxes"].float())
    B, Q, K = logits.shape
    if softmax:
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        scores, query = scores.sort(dim=1, descending=True, stable=True)
        labels = labels.gather(1, query)
    else:
        scores, index = logits.sigmoid().flatten(1).topk(Q, dim=1)
        query, labels = index // K, index % K
    boxes = boxes.gather(1, query[..., None].expand(-1, -1, 4)).clamp(0, 1)
    sizes = torch.tensor([target["original_size"] for target in targets], dtype=torch.float32)
    boxes = boxes * to_device(sizes, boxes.device).flip(-1).repeat(1, 2)[:, None]
    return [{"boxes": boxes[i], "scores": scores[i], "labels": labels[i]} for i in range(B)]
