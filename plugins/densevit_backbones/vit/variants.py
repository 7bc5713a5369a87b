"""Sizes of ViT's variants."""

from typing import NamedTuple


class Variant(NamedTuple):
    """The sizes of a model of the family."""

    width: int
    depth: int
    heads: int
    drop_path: float


VARIANTS = {
    "nano": Variant(128, 6, 4, 0.0),
    "tiny": Variant(192, 12, 3, 0.1),
    "small": Variant(384, 12, 6, 0.1),
    "base": Variant(768, 12, 12, 0.1),
    "large": Variant(1024, 24, 16, 0.0),
    "huge": Variant(1280, 32, 16, 0.0),
    "giant": Variant(1536, 40, 24, 0.0),
    "lw_tiny": Variant(192, 6, 12, 0.0),  # LW-DETR's, of `windowed_vit`
    "lw_small": Variant(192, 10, 12, 0.0),
    "lw_medium": Variant(384, 10, 12, 0.0),
    "lw_xlarge": Variant(768, 10, 12, 0.0),
}
HYBRID_BLOCKS = (3, 4, 9)  # of the three stages of stem "resnet"
