"""One-stage detection: a prediction per cell, one-to-many assignment and NMS."""

from densevit_heads.one_stage.head import OneStage

__all__ = ["OneStage"]
