"""Class-wise non-maximum suppression (NMS) of boxes, also in exported files."""

import torch
from torch import Tensor


@torch.library.custom_op("densevit::class_nms", mutates_args=())
def class_nms(boxes: Tensor, scores: Tensor, classes: Tensor, iou: float) -> Tensor:
    """The indices (M,) of boxes (N, 4) xyxy that NMS keeps within each class, by descending score.

    classes: (N,) int64; of several images, different numbers for each image. Boxes of a class do not change those of
    another: classes are shifted apart in float64, by whole pixels, which rounds no coordinate as float32 would.
    An operator, for which exported files have ONNX's.
    """
    from torchvision.ops import nms  # a second, and only for boxes

    device, count = (boxes.device, 25_000) if boxes.is_cuda else (torch.device("cpu"), 250)  # MPS has no float64
    x, s, groups = boxes.to(device).double(), scores.to(device).double(), classes.to(device)
    x = x + groups[:, None] * (2 * torch.cat([x, x.new_zeros(1, 4)]).abs().max().ceil() + 1)
    groups, order = groups.sort(stable=True)
    # A call compares all its pairs: about `count` boxes each, of complete classes.
    ends = torch.searchsorted(groups, groups[count::count].contiguous()).tolist()
    kept = torch.cat([rows[nms(x[rows], s[rows], iou)] for rows in order.tensor_split(ends)]).sort()[0].to(boxes.device)
    return kept[scores[kept].argsort(descending=True)]  # torchvision's order of equal scores


class_nms.register_fake(
    lambda boxes, *_: boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)
)
