"""Plots and self-contained HTML pages about runs: reports, comparisons, tables."""
