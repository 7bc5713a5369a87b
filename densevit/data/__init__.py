"""Samples, transforms, batches and the built-in data sets."""
