"""RT-DETR: a hybrid encoder and queries selected by IoU-aware scores (Zhao et al. 2024; v2, Lv et al. 2024)."""

from densevit_heads.rtdetr.head import RtDetr

__all__ = ["RtDetr"]
