"""Sizes of MViT's variants, by version."""

from typing import Literal, NamedTuple


class Variant(NamedTuple):
    """The sizes of a model of the family."""

    width: int
    blocks: tuple[int, int, int, int]
    heads: int  # in the first stage; they double with the width
    drop_path: float
    widens: Literal["attention", "mlp"]  # doubles the width: in a stage's first or last block


VARIANTS = {
    1: {
        "nano": Variant(32, (1, 1, 3, 1), 1, 0.0, "mlp"),
        "base": Variant(96, (1, 2, 11, 2), 1, 0.1, "mlp"),
        "large": Variant(112, (2, 3, 16, 3), 1, 0.3, "mlp"),
    },
    2: {
        "nano": Variant(32, (1, 1, 3, 1), 1, 0.0, "attention"),
        "tiny": Variant(96, (1, 2, 5, 2), 1, 0.1, "attention"),
        "small": Variant(96, (1, 2, 11, 2), 1, 0.1, "attention"),
        "base": Variant(96, (2, 3, 16, 3), 1, 0.3, "attention"),
        "large": Variant(144, (2, 6, 36, 4), 2, 0.5, "mlp"),
    },
}
