"""The metrics of `densevit.evaluate` for a loop of your own, of one process or of several.

`update` takes tensors or lists, `metrics` returns all values by name. Boxes are xyxy in pixels, labels class indices
from 0, label maps uint8 with 255 = ignored, depth in metres with 0 = unknown; `Classification` takes scores (B, K) and
class indices (B,); see each class.

Example:
    >>> miou = densevit.metrics.SemanticSegmentation(classes=["road", "sky"], boundary=True)
    >>> maps = torch.tensor([[[0, 0, 1, 1]]], dtype=torch.uint8)
    >>> miou.update(maps, maps)  # predictions and ground truth (B, H, W)
    >>> miou.metrics()["mIoU"]
    1.0
    >>> ap = densevit.metrics.CocoDetection(classes=3)
    >>> boxes, labels = [[10, 10, 50, 50]], [2]
    >>> ap.update([{"boxes": boxes, "labels": labels, "scores": [0.9]}], [{"boxes": boxes, "labels": labels}])
    >>> round(ap.metrics()["AP"], 6)
    1.0

In several processes, give each target its `image_id`: an image counts once. Without it, each image is a new one, also
after `merge` and in pickled and copied evaluators.

    >>> ap.merge([ap.state()])  # the states of all processes, as from torch.distributed.all_gather_object
"""

from densevit.evaluation.coco_ap import CocoDetection
from densevit.evaluation.coco_masks import CocoMasks
from densevit.evaluation.depth_errors import DepthErrors
from densevit.evaluation.image_classification import Classification
from densevit.evaluation.miou import SemanticSegmentation
from densevit.evaluation.panoptic import Panoptic

__all__ = ["Classification", "CocoDetection", "CocoMasks", "DepthErrors", "Panoptic", "SemanticSegmentation"]
