"""The heads of GTR: D-FINE's decoder on the levels of a projector, trained in groups of queries (Feng et al. 2026)."""

from densevit_heads.gtr.head import Gtr
from densevit_heads.gtr.instance_head import GtrInstance
from densevit_heads.gtr.semantic_head import GtrSemantic

__all__ = ["Gtr", "GtrInstance", "GtrSemantic"]
