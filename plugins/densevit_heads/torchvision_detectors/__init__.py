"""torchvision's Faster R-CNN and FCOS on the features of any backbone: baselines for the detection transformers."""

from densevit_heads.torchvision_detectors.faster_rcnn import FasterRCNN
from densevit_heads.torchvision_detectors.fcos import FCOS

__all__ = ["FCOS", "FasterRCNN"]
