"""A module that is no `Backbone`, as a backbone."""

import torch
from torch import Tensor, nn

from densevit.errors import ConfigError
from densevit.interfaces import Backbone

_SIDE = 448  # pixels of the images that show the strides; a multiple of patches of 14 and 16


class ModuleBackbone(Backbone):
    """A module that gives a map (B, C, h, w) of images (B, 3, H, W), or several, fine to coarse.

    Channels and strides are those of an image of 448 x 448 pixels. Images are normalised as for ImageNet.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        with torch.no_grad():
            maps = self.eval()(torch.zeros(1, 3, _SIDE, _SIDE))
        if not all(isinstance(x, Tensor) and x.ndim == 4 for x in maps):
            raise ConfigError(
                f"{type(module).__name__} gives no maps (B, C, h, w). Fix: a densevit.Backbone around it whose "
                "forward returns its maps."
            )
        self.channels, self.strides = tuple(x.shape[1] for x in maps), tuple(_SIDE // x.shape[2] for x in maps)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.module(images)
        return [maps] if isinstance(maps, Tensor) else list(maps)
