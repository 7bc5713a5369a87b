"""Infers the options of a Swin from its tensors."""

import math
from collections.abc import Iterable
from typing import Any

from densevit.errors import WeightsError
from densevit.interfaces import LayoutOptions, StateDict
from densevit.layers.windows import ShiftRule
from densevit.layouts import count
from densevit_backbones.swin.variants import VARIANTS

OPTIONS = LayoutOptions(runtime=("shift",), project_defaults=("shift",))
"""The options that no layout of a Swin shows."""


def describe(tensors: StateDict, shift: ShiftRule) -> dict[str, Any]:
    """The config section of a Swin, from tensors with densevit's keys, which in version 2 do not show the window size.

    shift: the shift rule of the project's code.
    """
    width = len(tensors["patch_norm.weight"])
    blocks = tuple(count(tensors, rf"stages\.{i}\.(\d+)\.norm1\.weight") for i in range(4))
    variant = next((name for name, sizes in VARIANTS.items() if (sizes.width, sizes.blocks) == (width, blocks)), None)
    if variant is None:
        variants = ", ".join(f"{name} {(sizes.width, sizes.blocks)}" for name, sizes in VARIANTS.items())
        raise WeightsError(f"A Swin of {width} channels and {blocks} blocks is not a known variant: {variants}.")
    section: dict[str, Any] = {"name": "swin", "variant": variant, "version": 2, "shift": shift}
    if "stages.0.0.attention.logit_scale" not in tensors:
        tables = [tensors[f"stages.{i}.1.attention.relative_position_bias_table"] for i in range(1, 4)]
        tables.insert(0, tensors["stages.0.0.attention.relative_position_bias_table"])
        section |= {"version": 1, "window_size": same((math.isqrt(len(table)) + 1) // 2 for table in tables)}
    return {"backbone": section}


def same(values: Iterable[int]) -> int | tuple[int, ...]:
    """One number if all values are equal, else all values."""
    numbers = tuple(values)
    return numbers[0] if len(set(numbers)) == 1 else numbers
