"""SETR: segmentation decoders for a transformer's maps (Zheng et al. 2021)."""

from densevit_heads.setr.head import Setr

__all__ = ["Setr"]
