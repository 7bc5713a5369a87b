"""Class-wise non-maximum suppression (NMS) of boxes, also in exported files."""

from torch import Tensor

from densevit.layers.tracing import is_exporting


def class_nms(boxes: Tensor, scores: Tensor, classes: Tensor, iou: float) -> Tensor:
    """The indices (M,) of boxes (N, 4) xyxy that NMS keeps within each class, by descending score.

    Calls `torchvision.ops.batched_nms`, which loops over the classes if there are many boxes. While a file is traced,
    the boxes of each class are shifted apart instead, as torchvision does for few boxes.
    """
    from torchvision.ops import batched_nms, nms  # a second, and only for boxes

    if not is_exporting():
        return batched_nms(boxes, scores, classes, iou)
    return nms(boxes + (classes.to(boxes) * (boxes.max() + 1))[:, None], scores, iou)
