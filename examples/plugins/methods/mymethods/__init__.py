"""Training methods for densevit."""
