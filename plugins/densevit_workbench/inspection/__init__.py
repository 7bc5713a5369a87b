"""Inspection of transformers: positions, attention distances and attention maps over an image."""
