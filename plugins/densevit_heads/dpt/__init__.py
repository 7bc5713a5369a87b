"""DPT: depth and segmentation by a convolutional decoder on a transformer's maps (Ranftl et al. 2021)."""

from densevit_heads.dpt.depth import DptDepth
from densevit_heads.dpt.segmentation import DptSegmentation

__all__ = ["DptDepth", "DptSegmentation"]
