"""Benchmarks of models: cost, speed, memory, and scores under one training protocol."""
