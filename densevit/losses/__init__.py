"""Losses and the matching that set prediction needs."""
