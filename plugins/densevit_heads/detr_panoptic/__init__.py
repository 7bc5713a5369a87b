"""DETR with a mask head: panoptic segmentation and instance masks (Carion et al. 2020, section 4.4)."""

from densevit_heads.detr_panoptic.head import DetrPanoptic

__all__ = ["DetrPanoptic"]
