"""Visualizations of predictions, plots, tables for the terminal, and the HTML report."""
