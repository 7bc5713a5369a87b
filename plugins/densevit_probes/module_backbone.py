"""A module that is no `Backbone`, as a backbone."""

import torch
from torch import Tensor, nn

from densevit.errors import ConfigError
from densevit.interfaces import Backbone, ModuleBackbone

_SIDE = 448  # pixels of the images that show the strides; a multiple of patches of 14 and 16


def as_backbone(module: nn.Module) -> Backbone:
    """A module that gives a map (B, C, h, w) of images (B, 3, H, W), or several, fine to coarse, as a backbone.

    Channels and strides are those of an image of 448 x 448 pixels. Raises ConfigError for other outputs.
    """
    if isinstance(module, Backbone):
        return module
    with torch.no_grad():
        maps = ModuleBackbone(module.eval(), (1,), (1,))(torch.zeros(1, 3, _SIDE, _SIDE))
    if not all(isinstance(x, Tensor) and x.ndim == 4 for x in maps):
        raise ConfigError(
            f"{type(module).__name__} gives no maps (B, C, h, w). Fix: a densevit.Backbone around it whose "
            "forward returns its maps."
        )
    return ModuleBackbone(module, [x.shape[1] for x in maps], [_SIDE // x.shape[2] for x in maps])
