"""GTR, gated token recurrence for dense prediction (arXiv 2609.26590)."""

from densevit_backbones.gtr.backbone import Gtr

__all__ = ["Gtr"]
