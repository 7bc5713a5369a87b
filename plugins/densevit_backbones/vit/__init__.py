"""Vision Transformer (Dosovitskiy et al. 2021) and later additions to it."""

from densevit_backbones.vit.backbone import ViT

__all__ = ["ViT"]
