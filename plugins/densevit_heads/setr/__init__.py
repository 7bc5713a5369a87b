"""SETR: segmentation decoders for vision transformers (Zheng et al. 2021)."""

from densevit_heads.setr.head import Setr

__all__ = ["Setr"]
