"""The image sizes that a model of timm accepts."""

import math
from collections.abc import Sequence
from typing import Any

from timm.models import MaxxVit, Twins, Xcit
from torch import nn

from densevit.errors import PluginError
from densevit_backbones.timm.building import metadata, takes
from densevit_backbones.timm.dry_run import DryRun, Size


def image_sizes(bare: DryRun, strides: Sequence[int], requested: Size | None) -> tuple[DryRun, Size, Size | None]:
    """The image sizes that a model accepts.

    bare: the model without arguments for sizes. requested: the image size; None: timm's.
    Returns the model with arguments for sizes, the size for which it is built, and the multiple to which heights and
    widths are padded, None for a model that takes its built size only.
    """
    is_fixed = bool(metadata(bare.model).get("fixed_input_size")) and takes(bare.model, "img_size")
    built = _built_size(bare, strides, requested) if is_fixed and requested else bare.native_size
    arguments = {"img_size": built} if is_fixed else {}
    any_size = _arguments_for_any_size(bare.model)
    if any_size is not None:
        model = bare.changed(arguments | any_size)
        if side_divisors := _multiple(model, strides, built):
            return model, built, side_divisors
    model = bare.changed(arguments)
    if requested not in (None, bare.native_size) and not (is_fixed and model.fits(built)):
        raise PluginError(
            f"backbone.image_size: timm's {bare.name!r} takes images of {bare.native_size[0]}x{bare.native_size[1]} "
            f"only, not of {requested}."
        )
    return model, built, None


def _built_size(bare: DryRun, strides: Sequence[int], requested: Size) -> Size:
    """The requested size in complete cells: multiples of the coarsest stride; for CrossViT's branches, whose strides
    are not multiples of each other, of a common multiple."""
    step = max(strides)
    if any(step % stride for stride in strides):
        step = bare.native_size[0] // math.gcd(*(x.shape[-2] for x in bare.native_maps))
    height, width = (-(-side // step) * step for side in requested)
    if height != width and not _can_be_built(bare, (height, width)):
        height = width = max(height, width)  # MViTv2 and ConViT support squares only
    return height, width


def _can_be_built(bare: DryRun, size: Size) -> bool:
    """Whether the model can be built for a size and runs with it."""
    try:
        return bare.changed({"img_size": size}).fits(size)
    except PluginError:
        return False


def _arguments_for_any_size(model: nn.Module) -> dict[str, Any] | None:
    """Arguments to try, with which the model may take any size; None if it takes only the size it is built for.

    If timm calls a model fixed, no other size is tried: several models run at other sizes with wrong results, such as
    MViTv2 because of its relative positions, and LeViT and ConViT if height and width are swapped. A dry run cannot
    tell these from the three families that timm calls fixed although they support any size:

    - Twins: attention within windows and to a reduced map; its positions are convolutions.
    - XCiT: attention over channels; its Fourier positions are computed for each map.
    - MaxViT and MaxxViT: attention within windows and grids of the built size. CoAtNet, of the same class, has a bias
      table of all cells, and fails a dry run at other sizes.
    """
    if not metadata(model).get("fixed_input_size") or isinstance(model, Twins | Xcit | MaxxVit):
        return {}
    if takes(model, "dynamic_img_size"):
        return {"dynamic_img_size": True}
    if takes(model, "strict_img_size"):
        return {"strict_img_size": False}
    return None


def _multiple(model: DryRun, strides: Sequence[int], built_size: Size) -> Size | None:
    """The smallest multiple to which images must be padded so that the model takes any size and its maps have
    ceil(size / stride) cells, if they have that many for any size.

    Tries non-square multiples of 1, the coarsest stride, its multiples up to 16 (windows), and the built size. None if
    the model takes no other size.
    """
    coarsest = max(strides)
    odd = ((1, 1), (coarsest + 1, 2 * coarsest - 1), (7, 2 * coarsest + coarsest // 2 + 1))
    if all(model.fits(size, strides) for size in odd):
        return (1, 1)
    for grids in (strides, None):
        for h, w in [(k * coarsest, k * coarsest) for k in range(1, 17)] + [built_size]:
            if all(model.fits((h * rows, w * columns), grids) for rows, columns in ((1, 1), (2, 1), (1, 3))):
                return (h, w)
    return None
