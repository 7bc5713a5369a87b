"""Linear heads, to evaluate the features of a frozen backbone."""

from densevit_heads.linear.depth import LinearDepth
from densevit_heads.linear.segmentation import LinearSegmentation

__all__ = ["LinearDepth", "LinearSegmentation"]
