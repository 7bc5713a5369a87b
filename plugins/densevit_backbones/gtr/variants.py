"""Sizes of GTR's variants."""

from typing import NamedTuple


class Variant(NamedTuple):
    """The channels of tokens and of the MLPs' hidden layers."""

    width: int
    hidden: int


VARIANTS = {"s": Variant(192, 512), "m": Variant(256, 768), "l": Variant(384, 1024), "x": Variant(384, 1536)}
