"""Mask2Former (Cheng et al. 2022): masked-attention mask transformer for universal image segmentation."""

from densevit_heads.mask2former.head import Mask2Former, Mask2FormerInstance, Mask2FormerSemantic

__all__ = ["Mask2Former", "Mask2FormerInstance", "Mask2FormerSemantic"]
