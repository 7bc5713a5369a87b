"""Losses, bipartite matching and label assignment."""
