"""Deformable DETR: attention to a few sampling points of several feature levels (Zhu et al. 2021)."""

from densevit_heads.deformable_detr.head import DeformableDetr

__all__ = ["DeformableDetr"]
