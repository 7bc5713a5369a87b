"""RF-DETR (Robinson et al. 2025) and LW-DETR (Chen et al. 2024): groups of queries on projected features."""

from densevit_heads.rf_detr.head import RfDetr
from densevit_heads.rf_detr.instance_head import RfDetrInstance

__all__ = ["RfDetr", "RfDetrInstance"]
