"""Exports models to ONNX and torch.export files, and checks each file against its model."""

from densevit.exporting.deployment import deployable

__all__ = ["deployable"]
