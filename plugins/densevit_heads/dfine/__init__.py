"""D-FINE: box regression as fine-grained distribution refinement (Peng et al. 2024)."""

from densevit_heads.dfine.head import Dfine

__all__ = ["Dfine"]
