"""Resizing and augmentation of samples, by name."""
