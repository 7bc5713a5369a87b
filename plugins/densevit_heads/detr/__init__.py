"""DETR: detection as set prediction (Carion et al. 2020), and what later papers found out about training it faster."""

from densevit_heads.detr.head import Detr

__all__ = ["Detr"]
