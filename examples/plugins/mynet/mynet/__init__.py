"""A custom backbone."""

from torch import Tensor, nn

import densevit


class MyNet(densevit.Backbone):
    """Five convolutions of stride 2; the last three return features."""

    def __init__(self, width: int = 64, in_channels: int = 3) -> None:
        super().__init__()
        self.channels, self.strides = (width, 2 * width, 4 * width), (8, 16, 32)
        self.stem = nn.Sequential(halve(in_channels, width), halve(width, width))
        self.stages = nn.ModuleList([halve(width, width), halve(width, 2 * width), halve(2 * width, 4 * width)])

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, in_channels, H, W), normalised. Returns (B, C, ceil(H / s), ceil(W / s)) for each stride s."""
        x = self.stem(images)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def halve(inputs: int, outputs: int) -> nn.Module:
    """A convolution of stride 2: a side of H pixels becomes one of ceil(H / 2), whatever H is."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(1, outputs), nn.ReLU())
