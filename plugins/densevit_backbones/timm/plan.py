"""What a model of timm is built with, and the channels, strides and sizes of its maps."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from densevit.errors import PluginError
from densevit_backbones.timm.building import takes
from densevit_backbones.timm.dry_run import DryRun, Size, grid
from densevit_backbones.timm.image_sizes import image_sizes
from densevit_backbones.timm.request import Request


class Map(NamedTuple):
    """A feature map of a model. resampled: whether the model's grid is not ceil(size / stride)."""

    channels: int
    stride: int
    resampled: bool


class BuildPlan(NamedTuple):
    """The constructor arguments of a model, the image sizes that it accepts, and its maps."""

    arguments: dict[str, Any]
    built_size: Size
    side_divisors: Size | None  # to which heights and widths are padded; None: the model takes its built size only
    maps: tuple[Map, ...]
    has_final_norm: bool  # whether the model can apply its final norm to each map


@cache  # a process builds a model several times
def plan_of(request: Request) -> BuildPlan:
    """Plans a model by building it and running it on the meta device several times."""
    bare = DryRun(request.name, request.arguments)
    _check(request, bare.model)
    has_rate = request.drop_path is not None and takes(bare.model, "drop_path_rate")
    drop_path = {"drop_path_rate": request.drop_path} if has_rate else {}
    reductions = [info["reduction"] for info in cast(Sequence[dict[str, Any]], bare.model.feature_info)]
    strides = [_stride(bare.native_size, x, s) for x, s in zip(bare.native_maps, reductions, strict=True)]
    model, built, side_divisors = image_sizes(bare, strides, request.size)
    tried = bare.native_size if side_divisors else built
    measured = bare.native_maps if tried == bare.native_size else model.maps(tried)
    maps = (Map(x.shape[1], s, tuple(x.shape[-2:]) != grid(tried, s)) for x, s in zip(measured, strides, strict=True))
    return BuildPlan(model.arguments | drop_path, built, side_divisors, tuple(maps), _has_final_norm(bare, strides))


def _check(request: Request, model: nn.Module) -> None:
    """Raises PluginError for a model without feature maps, and for a drop_path that it does not take."""
    if not hasattr(model, "forward_intermediates") or not hasattr(model, "prune_intermediate_layers"):
        raise PluginError(
            f"timm's {request.name!r} returns no features: {type(model).__name__} has no forward_intermediates(). Use "
            "another model, or another version of timm (in 1.0.31 all of timm's own models have it)."
        )
    if not 0 <= (request.drop_path or 0) < 1:
        raise PluginError(
            f"backbone.drop_path is {request.drop_path:g}; it is a probability, 0 or more and less than 1."
        )
    if request.drop_path and not takes(model, "drop_path_rate"):
        raise PluginError(f"backbone.drop_path: timm's {request.name!r} has no stochastic depth. Leave it out.")


def _stride(size: Size, feature: Tensor, reported: int) -> int:
    """Input pixels per cell, an integer: timm's value if the map agrees with it, else the measured value."""
    measured = size[0] / feature.shape[-2]
    agrees = tuple(feature.shape[-2:]) == grid(size, reported) or 2 / 3 < measured / reported < 3 / 2
    return reported if agrees else max(1, round(measured))


def _has_final_norm(bare: DryRun, strides: Sequence[int]) -> bool:
    """Whether the model has maps of one stride and width, and a final norm that `forward_intermediates` applies to
    each. Models that normalise after pooling (EVA-02) lack it."""
    norm = getattr(bare.model, "norm", nn.Identity())
    is_norm = isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity)
    return len(set(strides)) == 1 and is_norm and bare.fits(bare.native_size, norm=True)


def choose(name: str, plan: BuildPlan, features: tuple[int, ...] | None) -> list[int]:
    """The indices of the used maps, fine to coarse. features: the option of the backbone."""
    strides = [feature.stride for feature in plan.maps]
    count = len(strides)
    if features is not None:
        chosen = {i % count for i in features}
        if not features or len(chosen) < len(features) or not all(-count <= i < count for i in features):
            listed = ", ".join(f"{i}: stride {s}" for i, s in enumerate(strides))
            raise PluginError(
                f"backbone.features is {list(features)}; timm's {name!r} has the maps 0 to {count - 1}; expected each "
                f"at most once ({listed})."
            )
    elif len(set(strides)) == 1:
        chosen = {math.ceil(count * k / 4) - 1 for k in (1, 2, 3, 4)}
    else:
        deepest = {stride: i for i, stride in enumerate(strides)}
        chosen = {i for stride, i in deepest.items() if stride >= 4} or {count - 1}
    return sorted(chosen, key=lambda i: (strides[i], i))
