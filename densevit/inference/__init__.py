"""Prediction on images: creating and loading models, inputs, results in original pixels, output files."""
