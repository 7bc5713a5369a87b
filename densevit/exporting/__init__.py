"""Exports models to ONNX and torch.export files, each checked against its model."""
