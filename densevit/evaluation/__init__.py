"""Metrics, accumulated over the whole data set."""
