"""Checks that backbone and heads of a model fit together."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from densevit.errors import ConfigError, PluginError, counted
from densevit.interfaces import Backbone, Head, Neck, TokenBackbone
from densevit.targets.types import TargetTypes


def check_last_blocks(name: str, head: Head, backbone: Backbone, has_neck: bool) -> None:
    """Raises ConfigError if a head runs more blocks of the backbone than the backbone allows, takes the tokens of a
    backbone that allows none, or has a neck."""
    if head.last_blocks is None:
        return
    blocks = f"runs the backbone's last {counted(head.last_blocks, 'block')} itself"
    where = f"heads.{name} ({type(head).__name__}) {blocks if head.last_blocks else 'takes the tokens of the backbone'}"
    if not isinstance(backbone, TokenBackbone):
        raise ConfigError(
            f"{where}, but backbone {type(backbone).__name__} is no densevit.interfaces.TokenBackbone. Fix: use the "
            "backbone `vit`, or another head."
        )
    if max(head.last_blocks, 1) > backbone.max_last_blocks:
        raise ConfigError(
            f"{where}, but backbone {type(backbone).__name__} lets heads run {backbone.max_last_blocks or 'none'} as "
            f"configured (blocks with windows are excluded). Fix: use global attention in the last blocks, or another "
            "head."
        )
    if has_neck:
        raise ConfigError(f"{where} and takes no feature maps. Fix: remove heads.{name}.neck.")


def check_number_of_classes(name: str, head: Head) -> None:
    """Raises ConfigError for more classes than a target key of the head can represent."""
    types = TargetTypes(head.target_types)
    for key in getattr(head, "required_targets", ()):
        most = types[key].max_classes if key in types and types[key].task else None
        if most is not None and len(head.classes) > most:
            raise ConfigError(
                f"heads.{name}: {len(head.classes)} classes; its target `{key}` can hold at most {most}. Fix: merge or "
                "leave out classes of the data set."
            )


def check_features(where: str, part: Backbone | Neck, features: Any, size: Sequence[int], divisor: int = 1) -> None:
    """Raises PluginError unless features are a list of maps (B, C, h, w) with the `channels` and `strides` of a
    backbone or a neck.

    where: the part's place in the model, for messages. size: (H, W) of the padded images. divisor: a multiple to
    which grids may be padded (`check_grids`).
    """
    channels, strides = [*part.channels], [*part.strides]
    if isinstance(features, Sequence):
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in features]
        actual = [shape[1] if len(shape) == 4 else None for shape in shapes]
        if actual == channels and len(strides) == len(channels):
            check_grids(where, part, [shape[2:] for shape in shapes], strides, size, divisor)
            return
    returned = f"features of shapes {shapes}" if isinstance(features, Sequence) else f"a {type(features).__name__}"
    raise PluginError(
        f"{where} {type(part).__name__}: its forward returned {returned}; its channels are {channels} and its strides "
        f"{strides}, so a list of {len(channels)} maps (B, C, h, w) is expected."
    )


def check_grids(
    where: str, part: nn.Module, grids: Sequence[Any], strides: Sequence[int], size: Sequence[int], divisor: int = 1
) -> None:
    """Raises PluginError unless the grids (h, w) of the features are ceil(H / stride) x ceil(W / stride) cells.

    Sizes are compared on the host; symbols of a trace are not compared. divisor: grids may also be those of images that
    are padded to a multiple of it, whose cells a neck upsamples.
    """
    sides = [*size, *chain.from_iterable(grids)]
    if torch.compiler.is_compiling() or not all(isinstance(side, int) for side in sides):
        return
    canvas = [cells * divisor for cells in _grid(size, divisor)]
    for level, (grid, stride) in enumerate(zip(grids, strides, strict=True)):
        least, most = _grid(size, stride), _grid(canvas, stride)
        if not (least[0] <= grid[0] <= most[0] and least[1] <= grid[1] <= most[1]):
            actual = [_stride(size, grid) for grid in grids]
            raise PluginError(
                f"{where} {type(part).__name__}: level {level} of its features has {grid[0]} x {grid[1]} cells for "
                f"images of {size[0]} x {size[1]} pixels; with its stride {stride}, of {[*strides]}, {least[0]} x "
                f"{least[1]} are expected. Fix: "
                + (
                    "return maps of ceil(H / stride) x ceil(W / stride) cells, by padding or resampling."
                    if None in actual
                    else f"set its strides to {actual}."
                )
            )


def _grid(size: Sequence[int], stride: int) -> list[int]:
    return [-(-side // stride) for side in size]


def _stride(size: Sequence[int], grid: Sequence[int]) -> int | None:
    """The likeliest stride of a grid (h, w), rounded up or down, on images (H, W): one that divides both sides, or a
    power of 2; None if no stride fits."""

    def unlikely(stride: int) -> tuple[bool, bool, int]:
        return any(side % stride for side in size), stride & (stride - 1) != 0, stride

    pairs = [*zip(size, grid, strict=True)]
    strides = range(1, max(size) + 1)
    fitting = [s for s in strides if all(side // s <= cells <= -(-side // s) for side, cells in pairs)]
    return min(fitting, key=unlikely, default=None)
