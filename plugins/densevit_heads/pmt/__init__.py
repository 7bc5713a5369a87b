"""PMT (Cavagnero et al. 2026): plain mask transformer, a decoder over the tokens of a frozen vision transformer."""

from densevit_heads.pmt.head import PMT, PMTInstance, PMTSemantic

__all__ = ["PMT", "PMTInstance", "PMTSemantic"]
