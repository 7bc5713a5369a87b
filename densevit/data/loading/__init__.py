"""Batch samplers and resumable data loaders."""
