"""Models of timm (Wightman 2019) as backbones."""

from densevit_backbones.timm.backbone import Timm

__all__ = ["Timm"]
