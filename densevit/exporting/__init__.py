"""Exported files, ONNX and torch.export, each checked against the model that it came from."""
