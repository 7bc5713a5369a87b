"""Sizes of Swin's variants (Liu et al. 2021, section 3.3)."""

from typing import NamedTuple


class Variant(NamedTuple):
    """The sizes of a model of the family."""

    width: int
    blocks: tuple[int, ...]
    heads: tuple[int, ...]
    drop_path: float


VARIANTS = {
    "nano": Variant(32, (1, 1, 3, 1), (1, 2, 4, 8), 0.0),
    "tiny": Variant(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2),
    "small": Variant(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3),
    "base": Variant(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5),
    "large": Variant(192, (2, 2, 18, 2), (6, 12, 24, 48), 0.2),
}
