"""Vision Transformer (Dosovitskiy et al. 2021) and later additions to it."""

from densevit_backbones.vit.backbone import ViT
from densevit_backbones.vit.windowed_vit import WindowedViT

__all__ = ["ViT", "WindowedViT"]
