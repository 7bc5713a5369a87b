"""Faster implementations of plain layers, which `replacement` puts into a built model."""
