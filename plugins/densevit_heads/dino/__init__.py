"""DINO (Zhang et al. 2023): Deformable DETR with contrastive denoising and mixed query selection."""

from densevit_heads.dino.head import Dino

__all__ = ["Dino"]
