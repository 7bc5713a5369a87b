"""DETR: detection as set prediction (Carion et al. 2020), with options from later papers for faster training."""

from densevit_heads.detr.head import Detr

__all__ = ["Detr"]
