"""Drawn predictions, curves and the report."""
