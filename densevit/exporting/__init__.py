"""Exports models to ONNX and torch.export files, each checked against its model."""

from densevit.exporting.deployment import deployable

__all__ = ["deployable"]
