"""SegFormer: semantic segmentation by an MLP decoder (Xie et al. 2021)."""

from densevit_heads.segformer.head import SegFormer

__all__ = ["SegFormer"]
