"""Swin Transformer and Swin Transformer V2 (Liu et al. 2021, 2022)."""

from densevit_backbones.swin.backbone import Swin

__all__ = ["Swin"]
