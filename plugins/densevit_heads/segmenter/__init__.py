"""Segmenter: semantic segmentation by a mask transformer on a plain ViT (Strudel et al. 2021)."""

from densevit_heads.segmenter.head import Segmenter

__all__ = ["Segmenter"]
