"""UPerNet: semantic segmentation by pyramid pooling and a feature pyramid (Xiao et al. 2018)."""

from densevit_heads.upernet.head import UPerNet

__all__ = ["UPerNet"]
