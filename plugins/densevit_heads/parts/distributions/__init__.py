"""Distributions of box edges (D-FINE, Peng et al. 2024): decoder, criterion and the head that has them."""
