"""ResNet with an attention layer of one of five papers, between its blocks or in place of their 3x3 convolutions."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Protocol, cast

from torch import Tensor, nn

from densevit.interfaces import Backbone
from densevit.layers.checkpointing import run
from densevit_papers.axial import Axial
from densevit_papers.lr_net import LocalRelations
from densevit_papers.non_local import NonLocal
from densevit_papers.sagan import SelfAttention
from densevit_papers.sasa import StandAlone

if TYPE_CHECKING:
    from torchvision.models.resnet import Bottleneck

BLOCKS = {26: (1, 2, 4, 1), 38: (2, 3, 5, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_LR_NET_26 = (2, 2, 2, 2)


class Replacement(Protocol):
    """Options of a layer that replaces the 3x3 convolutions of `stages`, which count from 1."""

    @property
    def stages(self) -> tuple[int, ...]: ...

    def bottleneck(self, stage: int) -> int:
        """Channels of the bottlenecks of a stage, per 256 channels of their output."""

    def layer(self, channels: int, stride: int, map_stride: int) -> nn.Module:
        """(B, channels, H, W) -> (B, channels, ceil(H / stride), ceil(W / stride)), on a map of stride `map_stride`."""

    def stem_layers(self, channels: int) -> nn.Sequential | None:
        """(B, 3, H, W) -> (B, channels, ceil(H / 4), ceil(W / 4)); None: a 7x7 convolution and a max pooling."""


class AttentionResNet(Backbone):
    """ResNet with attention (`non_local`, `sagan`, `sasa`, `lr_net`, `axial`): features of strides 4, 8, 16 and 32.

    Without attention it is torchvision's ResNet, with the same keys. Any input size; each map is ceil(size / stride).
    Padding of the image at the right and bottom changes features: with `non_local` and `sagan` all features, with
    `axial` first the features in the same rows and columns, then all.

    depth: 26, 38, 50 or 101, with bottlenecks. Depth 26 has 1, 2, 4 and 1 bottlenecks (Ramachandran et al. 2019), with
        `lr_net` 2 in each stage.
    width: channels of the stem, with which all others grow; Axial-ResNet-S, M and L have 32, 48 and 64.
    non_local, sagan: sections of options of blocks that are inserted between residual blocks.
    sasa, lr_net, axial: sections of options of layers in place of the 3x3 convolutions. At most one of the five can be
        set; `{}` sets the defaults.
    gradient_checkpointing: activation checkpointing per block in training. Running statistics are updated once per
        batch.
    """

    def __init__(
        self,
        depth: Literal[26, 38, 50, 101] = 50,
        width: int = 64,
        non_local: NonLocal | None = None,
        sagan: SelfAttention | None = None,
        sasa: StandAlone | None = None,
        lr_net: LocalRelations | None = None,
        axial: Axial | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check_single({"non_local": non_local, "sagan": sagan, "sasa": sasa, "lr_net": lr_net, "axial": axial})
        if width < 1:
            raise ValueError(f"width is {width}; the stem needs at least one channel.")
        replacement: Replacement | None = sasa or lr_net or axial
        counts = _LR_NET_26 if lr_net and depth == 26 else BLOCKS[depth]
        self.gradient_checkpointing = gradient_checkpointing
        self.channels, self.strides = tuple(4 * width * 2**i for i in range(4)), (4, 8, 16, 32)
        self.stem = replacement.stem_layers(width) if replacement else None
        if self.stem is None:
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.relu = nn.ReLU(inplace=True)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = width
        for i, count in enumerate(counts):
            stage = []
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                stage.append(_residual_block(inputs, width * 2**i, stride, i + 1, replacement))
                inputs = 4 * width * 2**i
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self._initialise(zero_residual=axial is not None)
        self.inserted = nn.ModuleDict()  # after a residual block: stage, from 1, and block, from 0
        if non_local:
            positions = non_local.positions(depth)
            self.inserted.update({f"{s}_{b}": non_local.block(self.channels[s - 1]) for s, b in positions})
        if sagan:
            last = {s: counts[s - 1] - 1 for s in sagan.stages}
            self.inserted.update({f"{s}_{b}": sagan.block(self.channels[s - 1]) for s, b in last.items()})

    def _initialise(self, zero_residual: bool) -> None:
        """torchvision's initial values. zero_residual: the last norm of each block is 0, as in Axial-ResNet."""
        from torchvision.models.resnet import Bottleneck

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, Bottleneck) and zero_residual:
                nn.init.zeros_(module.bn3.weight)
        for module in self.modules():
            initialise = getattr(module, "initialise", None)
            if initialise is not None:  # an attention layer, whose convolutions have other initial values
                initialise()

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images)))) if self.stem is None else self.stem(images)
        features = []
        for i in range(4):
            for blocks in self._blocks(i):
                for block in blocks:
                    x = run(block, x, checkpointed=self.gradient_checkpointing and self.training)
            features.append(x)
        return features

    def _blocks(self, stage: int) -> Iterator[list[nn.Module]]:
        """The residual blocks of a stage, from 0, each with the block inserted after it, or None."""
        for j, block in enumerate(cast(nn.Sequential, getattr(self, f"layer{stage + 1}"))):
            key = f"{stage + 1}_{j}"
            yield [block, self.inserted[key]] if key in self.inserted else [block]

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Groups: the stem, and each residual block with the block inserted after it."""
        stem = [self.conv1, self.bn1] if self.stem is None else [self.stem]
        groups = [stem, *(blocks for i in range(4) for blocks in self._blocks(i))]
        return [[parameter for part in group for parameter in part.parameters()] for group in groups]


def _residual_block(inputs: int, planes: int, stride: int, stage: int, replacement: Replacement | None) -> "Bottleneck":
    """planes: a quarter of the output's channels. stage: the number of the stage, from 1."""
    from torchvision.models.resnet import Bottleneck, conv1x1  # seconds

    bottleneck = 64 if replacement is None else replacement.bottleneck(stage)
    downsample = None
    if stride > 1 or inputs != 4 * planes:
        downsample = nn.Sequential(conv1x1(inputs, 4 * planes, stride), nn.BatchNorm2d(4 * planes))
    block = Bottleneck(inputs, planes, stride, downsample, base_width=bottleneck)
    if replacement is not None and stage in replacement.stages:
        channels = block.conv1.out_channels
        map_stride = 2 ** (stage + 1) // stride  # of the block's input
        block.conv2 = replacement.layer(channels, stride, map_stride)
        if isinstance(replacement, Axial):
            block.bn2 = nn.Identity()  # the layer ends with a norm
    return block


def _check_single(sections: dict[str, object | None]) -> None:
    present = [name for name, options in sections.items() if options is not None]
    if len(present) > 1:
        raise ValueError(f"{', '.join(present)} are set; at most one of {', '.join(sections)} can be.")
