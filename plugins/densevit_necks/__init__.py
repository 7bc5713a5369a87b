"""The necks that densevit ships, found like third-party ones."""
