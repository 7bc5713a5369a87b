"""Resizing and augmentation of samples, by recipes."""
