"""MViT (Fan et al. 2021) and MViTv2 (Li et al. 2022)."""

from densevit_backbones.mvit.backbone import MViT

__all__ = ["MViT"]
