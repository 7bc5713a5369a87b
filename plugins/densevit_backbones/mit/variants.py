"""Sizes of MiT's variants (Xie et al. 2021, table 6)."""

from typing import NamedTuple


class Variant(NamedTuple):
    """The sizes of a model of the family."""

    widths: tuple[int, ...]
    blocks: tuple[int, ...]


HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)

_SMALL, _LARGE = (32, 64, 160, 256), (64, 128, 320, 512)

VARIANTS = {
    "b0": Variant(_SMALL, (2, 2, 2, 2)),
    "b1": Variant(_LARGE, (2, 2, 2, 2)),
    "b2": Variant(_LARGE, (3, 4, 6, 3)),
    "b3": Variant(_LARGE, (3, 4, 18, 3)),
    "b4": Variant(_LARGE, (3, 8, 27, 3)),
    "b5": Variant(_LARGE, (3, 6, 40, 3)),
}
