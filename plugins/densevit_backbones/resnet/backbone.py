"""ResNet (He et al. 2016), ResNeXt (Xie et al. 2017) and wide ResNet, with torchvision's layout of weights."""

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn

from densevit.interfaces import Backbone
from densevit.layers.checkpointing import run
from densevit.layers.norms import FrozenBatchNorm2d, GroupNorm, SyncBatchNorm2d, conv_norm
from densevit_backbones.resnet.variants import BLOCKS

Norm = Callable[[int], nn.Module]

_NORMS: dict[str, Callable[[int, float, float], nn.Module]] = {  # by channels, epsilon and momentum
    "frozen": lambda channels, eps, _: FrozenBatchNorm2d(channels, eps),
    "batch": nn.BatchNorm2d,
    "sync": SyncBatchNorm2d,
    "group": lambda channels, eps, _: GroupNorm(32, channels, eps),
}


class ResNet(Backbone):
    """Deep residual network: features of strides 4, 8, 16 and 32 after its four stages.

    The stride of a bottleneck is in its 3x3 convolution ("v1.5"), as in torchvision's weights, and the state dict has
    torchvision's keys (timm's for "d" and "vd"). Any input size; each map is ceil(size / stride). Convolutions run and
    features are returned in channels-last memory format.

    Padding at the right or bottom changes features whose receptive field reaches it, within 17, 45, 133 and 213 pixels
    for the four stages of depth 50; other features are equal with and without padding. This holds for "frozen"
    norms, and for "batch" and "sync" in evaluation; "group" norms use statistics of the whole map with padding.

    depth: 18, 34, 50, 101 or 152.
    dilation: the last stage keeps the previous stage's stride and dilates its convolutions instead (DETR's DC5).
    norm: "batch"; "sync", batch norm over the GPUs of all processes; "group" (32 groups); or "frozen", batch norm with
        constant statistics and parameters, for fine-tuning with few images per batch.
    norm_eps: epsilon of the norms; 1e-3 in kMaX-DeepLab.
    norm_momentum: the momentum of the statistics of "batch" and "sync"; 0.01 in kMaX-DeepLab.
    frozen_stages: number of frozen parts (parameters and batch statistics), counted from the stem: 1 is the stem, 2
        adds the first stage (DETR), 5 is everything.
    variant: "b", with a 7x7 convolution as stem; "d", with a stem of three 3x3 convolutions and average pooling in
        shortcuts (He et al. 2019, section 4.2); "vd", PaddleDetection's and RT-DETR's "d", whose first block has a
        projection shortcut also if shapes are equal, as with basic blocks. From depth 50 on the two are the same.
    groups, width_per_group: groups of a bottleneck's 3x3 convolution, and channels per group in the first stage (they
        double with each stage); from depth 50 on. ResNeXt 32x4d has 32 groups of 4 channels, 32x8d and 64x4d likewise;
        wide ResNet-50-2 and 101-2 have one group of 128.
    gradient_checkpointing: activation checkpointing per block. Running statistics are updated once per batch.
    in_channels: the number of channels of images.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        depth: Literal[18, 34, 50, 101, 152] = 50,
        dilation: bool = False,
        norm: Literal["frozen", "batch", "sync", "group"] = "batch",
        frozen_stages: Literal[0, 1, 2, 3, 4, 5] = 0,
        variant: Literal["b", "d", "vd"] = "b",
        groups: int = 1,
        width_per_group: int = 64,
        gradient_checkpointing: bool = False,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        _check_groups(depth, groups, width_per_group, norm)
        for option, value in (("norm_eps", norm_eps), ("norm_momentum", norm_momentum)):
            if not 0 < value < 1:
                raise ValueError(f"{option} is {value:g}; it must be above 0 and below 1.")
        expansion = 4 if depth >= 50 else 1

        def make_norm(channels: int) -> nn.Module:
            return _NORMS[norm](channels, norm_eps, norm_momentum)

        self.gradient_checkpointing, self.conv_norm = gradient_checkpointing, conv_norm
        self.conv1 = (
            nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            if variant == "b"
            else _deep_stem(make_norm, in_channels)
        )
        self.bn1 = make_norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.channels = tuple(64 * 2**i * expansion for i in range(4))
        self.strides = (4, 8, 16, 16 if dilation else 32)
        inputs = 64
        for i, (count, outputs) in enumerate(zip(BLOCKS[depth], self.channels, strict=True)):
            dilated = dilation and i == 3
            stage: list[nn.Module] = []
            for j in range(count):
                stride = 2 if i > 0 and j == 0 and not dilated else 1
                # As in torchvision, the first block of a dilated stage still has the dilation of the previous stage.
                dilate = 2 if dilated and j > 0 else 1
                if depth < 50:
                    block: _Block = _Basic(inputs, outputs, stride, dilate, make_norm)
                else:
                    width = groups * width_per_group * 2**i
                    block = _Bottleneck(inputs, width, outputs, stride, dilate, groups, make_norm)
                if stride > 1 or inputs != outputs or (variant == "vd" and j == 0):
                    block.downsample = _shortcut(inputs, outputs, stride, make_norm, variant != "b", dilated)
                stage.append(block)
                inputs = outputs
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self._initialise()
        self.to(memory_format=torch.channels_last)  # otherwise each step copies kernels and their gradients
        self.frozen_stages = frozen_stages
        for module in self._frozen():
            module.requires_grad_(False)
        self.train()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        x = images.contiguous(memory_format=torch.channels_last)
        if isinstance(self.conv1, nn.Conv2d):
            x = self.conv_norm(self.conv1, self.bn1, x)
        else:  # variants "d" and "vd"
            x = self.relu(self.bn1(self.conv1(x)))
        x = self.maxpool(x)
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = run(block, x, checkpointed=self.gradient_checkpointing and self.training)
            features.append(x)
        return features

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        blocks = [block for stage in (self.layer1, self.layer2, self.layer3, self.layer4) for block in stage]
        return [[*self.conv1.parameters(), *self.bn1.parameters()], *(list(block.parameters()) for block in blocks)]

    def train(self, mode: bool = True) -> "ResNet":
        """Sets the mode; norms of frozen stages stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        parts: tuple[list[nn.Module], ...]
        parts = ([self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4])
        return [module for part in parts[: self.frozen_stages] for module in part]


def _check_groups(depth: int, groups: int, width_per_group: int, norm: str) -> None:
    for option, value in (("groups", groups), ("width_per_group", width_per_group)):
        if value < 1:
            raise ValueError(f"{option} is {value}; it is a number of channels or groups, 1 or more.")
    if depth < 50 and (groups, width_per_group) != (1, 64):
        raise ValueError(
            f"groups {groups} and width_per_group {width_per_group} need a bottleneck, but depth {depth} has none: "
            "expected depth 50, 101 or 152, or groups 1 and width_per_group 64."
        )
    if norm == "group" and groups * width_per_group % 32:
        raise ValueError(
            f"norm 'group' has 32 groups, but groups x width_per_group is {groups} x {width_per_group}: "
            "expected a multiple of 32."
        )


def _deep_stem(norm: Norm, in_channels: int) -> nn.Sequential:
    """Three 3x3 convolutions, the first of stride 2, in place of one 7x7 (He et al. 2019, figure 2b)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 3, stride=2, padding=1, bias=False),
        norm(32),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 32, 3, padding=1, bias=False),
        norm(32),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 64, 3, padding=1, bias=False),
    )


def _shortcut(inputs: int, outputs: int, stride: int, norm: Norm, average: bool, dilated: bool) -> nn.Sequential:
    """A 1x1 convolution. average: averages 2x2 cells before, so that a stride of 2 skips no cell (figure 2c)."""
    if not average:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))
    pool: nn.Module = nn.Identity()
    if stride > 1:
        pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    elif dilated:  # as in timm: stride 1, with the same averages at every second cell as stride 2
        pool = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, 1))
    return nn.Sequential(pool, nn.Conv2d(inputs, outputs, 1, bias=False), norm(outputs))


class _Block(nn.Module):
    """A residual block; `downsample` is the projection shortcut if shapes differ."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_norm = conv_norm
        self.downsample: nn.Sequential | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        raise NotImplementedError

    def shortcut(self, x: Tensor) -> Tensor:
        if self.downsample is None:
            return x
        *pool, conv, norm = self.downsample
        for part in pool:
            x = part(x)
        return self.conv_norm(cast(nn.Conv2d, conv), norm, x, relu=False)


class _Basic(_Block):
    """Two 3x3 convolutions (figure 5, left)."""

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_norm(self.conv1, self.bn1, x)
        return self.conv_norm(self.conv2, self.bn2, y, residual=self.shortcut(x))


class _Bottleneck(_Block):
    """1x1, 3x3 and 1x1 convolutions (figure 5, right); the 3x3 in groups for ResNeXt (Xie et al. 2017, figure 3c)."""

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, dilation: int, groups: int, norm: Norm
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, groups, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_norm(self.conv1, self.bn1, x)
        y = self.conv_norm(self.conv2, self.bn2, y)
        return self.conv_norm(self.conv3, self.bn3, y, residual=self.shortcut(x))
