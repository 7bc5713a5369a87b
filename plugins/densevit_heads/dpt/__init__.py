"""DPT: depth estimation and segmentation with a convolutional decoder for transformers (Ranftl et al. 2021)."""

from densevit_heads.dpt.depth import DptDepth
from densevit_heads.dpt.segmentation import DptSegmentation

__all__ = ["DptDepth", "DptSegmentation"]
