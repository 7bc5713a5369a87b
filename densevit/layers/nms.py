"""Non-maximum suppression (NMS) of boxes by class, which exported files have too."""

from torch import Tensor

from densevit.layers.tracing import is_exporting


def class_nms(boxes: Tensor, scores: Tensor, classes: Tensor, iou: float) -> Tensor:
    """The indices (M,) of boxes (N, 4) xyxy that NMS keeps within each class, by descending score.

    `torchvision.ops.batched_nms`, which has a loop over classes for many boxes. While a file is traced, the classes are
    moved apart instead, as torchvision does for few boxes.
    """
    from torchvision.ops import batched_nms, nms  # a second, and only for boxes

    if not is_exporting():
        return batched_nms(boxes, scores, classes, iou)
    return nms(boxes + (classes.to(boxes) * (boxes.max() + 1))[:, None], scores, iou)
