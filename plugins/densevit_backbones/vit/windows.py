"""Windowed attention of a plain vision transformer (ViTDet, Li et al. 2022, section 3)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Windows:
    """The option `windows` of a ViT. Class, distillation and register tokens take part only in global attention.

    size: the side of a window in cells. global_blocks: numbers of the blocks with global attention, from 1; None: the
    last blocks of the four quarters of the depth, as in ViTDet.
    """

    size: int
    global_blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_positive("size", self.size)

    def sides(self, quarters: tuple[int, ...], depth: int, built: int, has_tokens: bool) -> list[int | None]:
        """The window of each of the first `built` blocks; None: global attention."""
        global_blocks = quarters if self.global_blocks is None else self.global_blocks
        if global_blocks:
            check_blocks("global_blocks", global_blocks, depth)
        if has_tokens and not any(number <= built for number in global_blocks):
            raise ValueError(
                f"global_blocks has none of the {built} blocks that features come from, so class_token and registers "
                "would not attend to any cell: name one of these blocks, or set class_token to false and registers to "
                "0."
            )
        return [None if number in global_blocks else self.size for number in range(1, built + 1)]


def check_range(option: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"{option} is {value}; it must be from {lowest} to {highest}.")


def check_positive(option: str, value: float | None) -> None:
    if value is not None and value <= 0:
        raise ValueError(f"{option} is {value:g}; it must be more than 0.")


def check_blocks(option: str, numbers: Sequence[int], depth: int) -> None:
    rising = all(a < b for a, b in itertools.pairwise(numbers))
    if not numbers or not rising or numbers[0] < 1 or numbers[-1] > depth:
        raise ValueError(f"{option} is {list(numbers)}; it must be ascending block numbers, from 1 to {depth}.")
