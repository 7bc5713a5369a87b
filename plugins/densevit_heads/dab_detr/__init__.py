"""DAB-DETR (Liu et al. 2022): queries are boxes, refined from layer to layer."""

from densevit_heads.dab_detr.head import DabDetr

__all__ = ["DabDetr"]
