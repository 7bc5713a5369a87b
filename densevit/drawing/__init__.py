"""Draws predictions and ground truth onto images."""
