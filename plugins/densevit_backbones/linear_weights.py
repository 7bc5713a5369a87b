"""The initial weights of linear layers, under the name by which measured backbones import them."""

from densevit.layers.initial_weights import truncated_normal

__all__ = ["truncated_normal"]
