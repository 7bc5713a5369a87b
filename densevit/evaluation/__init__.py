"""Metrics, accumulated over a data set."""
