"""A backbone without parameters, as a control of probes: colours and positions."""

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.interfaces import Backbone


class Pixels(Backbone):
    """The mean colour of each patch, and its position from -1 to 1: what a probe learns without a network.

    patch_size: side of the patches, in pixels.
    """

    def __init__(self, patch_size: int = 16) -> None:
        super().__init__()
        if patch_size < 1:
            raise ConfigError(f"patch_size is {patch_size}; it must be at least 1.")
        self.patch_size = patch_size
        self.channels, self.strides = (5,), (patch_size,)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one map (B, 5, h, w): red, green, blue, x, y."""
        H, W = images.shape[-2:]
        size = self.patch_size
        padded = F.pad(images, (0, -W % size, 0, -H % size))
        colors = F.avg_pool2d(padded, size)
        y, x = (torch.linspace(-1, 1, n, device=images.device, dtype=images.dtype) for n in colors.shape[-2:])
        places = torch.stack(torch.meshgrid(x, y, indexing="xy")).expand(len(images), -1, -1, -1)
        return [torch.cat([colors, places], 1)]
