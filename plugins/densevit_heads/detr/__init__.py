"""DETR: detection as set prediction (Carion et al. 2020)."""

from densevit_heads.detr.head import Detr

__all__ = ["Detr"]
