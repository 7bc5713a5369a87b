"""Predictions by the folder: parts, tables, videos, joining heads."""
