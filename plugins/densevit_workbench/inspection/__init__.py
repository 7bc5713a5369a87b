"""Inspection of transformers: filters, positions, attention distances, rollout and attention maps over an image."""
