"""DETR with a mask head: panoptic segmentation (Carion et al. 2020, section 4.4)."""

from densevit_heads.detr_panoptic.head import DabDetrPanoptic, DetrPanoptic

__all__ = ["DabDetrPanoptic", "DetrPanoptic"]
