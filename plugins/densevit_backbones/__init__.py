"""The backbones that densevit ships, found like third-party ones."""
