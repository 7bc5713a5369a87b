"""Reads and writes image, label, depth and video files."""
