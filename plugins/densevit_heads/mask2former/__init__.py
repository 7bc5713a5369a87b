"""Mask2Former (Cheng et al. 2022): masked-attention mask transformer for universal image segmentation."""

from densevit_heads.mask2former.head import Mask2Former

__all__ = ["Mask2Former"]
