"""EoMT (Kerssies et al. 2025): encoder-only mask transformer, whose queries are tokens of a vision transformer."""

from densevit_heads.eomt.head import EoMT, EoMTInstance, EoMTSemantic

__all__ = ["EoMT", "EoMTInstance", "EoMTSemantic"]
