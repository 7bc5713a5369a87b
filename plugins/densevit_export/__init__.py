"""Exports models to ONNX and torch.export files, checks each file against its model, and runs files."""
