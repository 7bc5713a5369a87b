"""Mix Transformer (MiT), the backbone of SegFormer (Xie et al. 2021)."""

from densevit_backbones.mit.backbone import MixTransformer

__all__ = ["MixTransformer"]
