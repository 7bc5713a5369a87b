"""Prediction: creating and loading models, image inputs, results in original pixels, output files."""
