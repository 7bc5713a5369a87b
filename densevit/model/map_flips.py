"""Horizontal flips of dense maps: columns are mirrored, and vectors also change the sign of a component."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from densevit.errors import PluginError
from densevit.interfaces import DenseHead, TargetType
from densevit.targets import PixelMap
from densevit.targets.types import TargetTypes

Flip = Callable[[Tensor], Tensor]
"""Converts the maps (C, h, w) of an image to the maps of the horizontally flipped image."""

_PROBE = (16, 64)  # height and width of random maps


def flip_of(name: str, head: DenseHead, maps: Tensor) -> Flip:
    """The flip of maps (n, C, h, w) of the head `name` that flips the predictions read from them.

    Mirrors maps. If the maps are the predictions, such as vectors, the target type may flip them instead, see
    `TargetType.hflip`. Raises PluginError if neither is correct, as for angles read from maps of sines.
    """
    all_types = TargetTypes(head.target_types)
    types = {key: all_types[key] for key in head.read_maps(maps[:1, :, :1, :1]) if key in all_types}
    if all(type(target_type).hflip is PixelMap.hflip for target_type in types.values()):
        return _mirrored
    probe = torch.randn(maps.shape[1], *_PROBE, generator=torch.Generator().manual_seed(0)).to(maps)
    read = _read(head, probe)
    expected = {key: target_type.hflip(read[key], _PROBE) for key, target_type in types.items()}
    by_type = [partial(_by_type, types[key], read[key].shape[:-2]) for key in types if read[key].size == probe.numel()]
    flips: list[Flip] = [_mirrored, *by_type]
    for flip in flips:
        actual = _read(head, flip(probe))
        if all(np.allclose(actual[key], value, atol=1e-5) for key, value in expected.items()):
            return flip
    actual = _read(head, _mirrored(probe))
    [key, *_] = [key for key, value in expected.items() if not np.allclose(actual[key], value, atol=1e-5)]
    raise PluginError(
        f"heads.{name} ({type(head).__name__}): inference.flip=true averages its maps with the maps of the mirrored "
        f"image, flipped back, but the target type {type(types[key]).__name__} changes the values of {key!r} in a "
        f"flip, which are read from {maps.shape[1]} maps of other values. Fix: let maps() return the values of "
        f"{key!r}, which read_maps() may normalise; or set heads.{name}.inference.flip=false."
    )


def _read(head: DenseHead, maps: Tensor) -> dict[str, np.ndarray]:
    """The predictions that a head reads from maps (C, h, w)."""
    return {key: value[0].cpu().numpy() for key, value in head.read_maps(maps[None]).items()}


def _mirrored(maps: Tensor) -> Tensor:
    return maps.flip(-1)


def _by_type(target_type: TargetType, channels: tuple[int, ...], maps: Tensor) -> Tensor:
    """Flips maps, which are predictions, by their target type. channels: the prediction's channel dimensions, () or
    (C,).
    """
    size = (maps.shape[-2], maps.shape[-1])
    flipped = target_type.hflip(maps.cpu().numpy().reshape(*channels, *size), size)
    return torch.from_numpy(np.ascontiguousarray(flipped)).reshape(maps.shape).to(maps)
