"""Template of a backbone: residual convolutions, to be replaced by your own layers."""

MODULE = '''\
"""A backbone for densevit."""

import densevit
from torch import Tensor, nn


class $cls(densevit.Backbone):
    """Residual convolutions in four stages: features of strides 4, 8, 16 and 32."""

    # The arguments are the options in YAML (`backbone: {name: $name, width: 48}`), checked against their annotations.
    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"width is {width} and depth is {depth}; both must be at least 1.")
        # One channel count and one stride per feature, fine to coarse; any number of features.
        self.channels = (width, 2 * width, 4 * width, 8 * width)
        self.strides = (4, 8, 16, 32)
        # Put your own layers here.
        self.stem = halve(3, width)
        self.stages = nn.ModuleList()
        inputs = width
        for outputs in self.channels:
            blocks = [Residual(outputs) for _ in range(depth)]
            self.stages.append(nn.Sequential(halve(inputs, outputs), *blocks))
            inputs = outputs

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, H, W), normalised. Returns a (B, C, ceil(H / s), ceil(W / s)) per stride s."""
        x = self.stem(images)  # (B, C, ceil(H / 2), ceil(W / 2))
        features = []
        for stage in self.stages:
            x = stage(x)  # half the height and width, rounded up
            features.append(x)
        return features

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Each parameter once, input first, for layer-wise learning rates."""
        return [list(part.parameters()) for part in (self.stem, *self.stages)]


class Residual(nn.Module):
    """A residual block: a depthwise convolution and two 1x1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 5, padding=2, groups=channels),
            nn.GroupNorm(1, channels),
            nn.Conv2d(channels, 4 * channels, 1),
            nn.GELU(),
            nn.Conv2d(4 * channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.body(x)


def halve(inputs: int, outputs: int) -> nn.Module:
    """A convolution of stride 2: (H, W) becomes (ceil(H / 2), ceil(W / 2)) for any H and W."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
    return nn.Sequential(convolution, nn.GroupNorm(1, outputs), nn.GELU())
'''

CONFIG = """\
# $cls under DETR, on the built-in scenes:
#   densevit train configs/$name.yaml
# On COCO, with DINO for 12 epochs, as the published backbones; FILE: pretrained weights:
#   densevit train paper/coco data.root=~/coco backbone.name=$name backbone.weights=FILE
# For features of one stride, as a plain ViT's: heads.detection.neck.name=simple_pyramid
base: detr_swin
backbone: {name: $name}
"""
