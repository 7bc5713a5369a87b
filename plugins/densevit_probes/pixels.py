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
        rows, columns = (torch.ones_like(colors[:, :1], dtype=torch.float32).cumsum(axis) - 1 for axis in (2, 3))
        x, y = (2 * z / z.amax((2, 3), keepdim=True).clamp(min=1) - 1 for z in (columns, rows))
        return [torch.cat([colors, x.to(colors), y.to(colors)], 1)]
