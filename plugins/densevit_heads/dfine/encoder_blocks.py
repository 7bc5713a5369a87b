"""D-FINE's blocks of the hybrid encoder: GELAN fusion with re-parameterised branches, and decoupled downsampling."""

import torch
from torch import Tensor, nn

from densevit_heads.parts.convolutions import ConvNorm, CspRepLayer


class RepNcspElan(nn.Module):
    """RepNCSPELAN4 (YOLOv9, Wang et al. 2024, GELAN): two CSP layers in a row, of which all results are joined.

    A 1x1 convolution gives two halves of `outputs` channels each; the second half passes through two branches of
    `branch` channels, each a `CspRepLayer` of `num_blocks` blocks and a 3x3 convolution. A 1x1 convolution joins both
    halves and both branches' results.
    """

    def __init__(self, inputs: int, outputs: int, branch: int, num_blocks: int) -> None:
        super().__init__()
        self.enter = ConvNorm(inputs, 2 * outputs, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(CspRepLayer(width, branch, num_blocks=num_blocks), ConvNorm(branch, branch, 3))
            for width in (outputs, branch)
        )
        self.leave = ConvNorm(2 * outputs + 2 * branch, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        maps = [*self.enter(x).chunk(2, dim=1)]
        for branch in self.branches:
            maps.append(branch(maps[-1]))
        return self.leave(torch.cat(maps, dim=1))


def decoupled_downsampling(width: int) -> nn.Sequential:
    """A pointwise, then a depthwise 3x3 convolution of stride 2 (SCDown of YOLOv10, Wang et al. 2024)."""
    return nn.Sequential(
        ConvNorm(width, width, 1, activation=None),
        ConvNorm(width, width, 3, stride=2, groups=width, activation=None),
    )
