"""ResNet (He et al. 2016), with torchvision's layout of weights."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from densevit.interfaces import Backbone
from densevit.layers.norms import FrozenBatchNorm2d

Norm = Callable[[int], nn.Module]

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_NORMS: dict[str, Norm] = {
    "frozen": FrozenBatchNorm2d,
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(32, channels),
}


class ResNet(Backbone):
    """Deep residual network: features of strides 4, 8, 16 and 32 after its four stages.

    The stride of a bottleneck is in its 3x3 convolution ("v1.5"), as published torchvision weights have it, and the
    state has their keys. Any input size; each map is ceil(size / stride). Padding changes what it touches: features
    within the receptive field of a picture's border depend on what lies beyond it.

    depth: 18, 34, 50, 101 or 152.
    dilation: the last stage keeps the stride of the one before and dilates its convolutions instead (DETR's DC5).
    norm: "batch", "group" (32 groups), or "frozen": batch norm as constants, for fine-tuning with few images a batch.
    frozen_stages: parts that stay as they are, trained neither in parameters nor in batch statistics, counted from the
        stem: 1 is the stem, 2 the first stage too (DETR's), 5 everything.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        depth: Literal[18, 34, 50, 101, 152] = 50,
        dilation: bool = False,
        norm: Literal["frozen", "batch", "group"] = "batch",
        frozen_stages: Literal[0, 1, 2, 3, 4, 5] = 0,
    ) -> None:
        super().__init__()
        block: type[_Basic | _Bottleneck] = _Bottleneck if depth >= 50 else _Basic
        make_norm = _NORMS[norm]
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        width = 64
        for i, count in enumerate(_BLOCKS[depth]):
            dilated = dilation and i == 3
            stage = []
            for j in range(count):
                stride = 2 if i > 0 and j == 0 and not dilated else 1
                # As in torchvision, the first block of a dilated stage still has the dilation of the stage before.
                stage.append(block(width, 64 * 2**i, stride, 2 if dilated and j > 0 else 1, make_norm))
                width = 64 * 2**i * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.channels = tuple(64 * 2**i * block.expansion for i in range(4))
        self.strides = (4, 8, 16, 16 if dilation else 32)
        self._initialise()
        self.frozen_stages = frozen_stages
        for module in self._frozen():
            module.requires_grad_(False)
        self.train()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        blocks = [block for stage in (self.layer1, self.layer2, self.layer3, self.layer4) for block in stage]
        return [[*self.conv1.parameters(), *self.bn1.parameters()], *(list(block.parameters()) for block in blocks)]

    def train(self, mode: bool = True) -> "ResNet":
        """As of any module, but the norms of frozen stages stand still."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        parts: tuple[list[nn.Module], ...]
        parts = ([self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4])
        return [module for part in parts[: self.frozen_stages] for module in part]


def _shortcut(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm(outputs))


class _Basic(nn.Module):
    """Two 3x3 convolutions (figure 5, left)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions (figure 5, right)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = norm(width * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width * 4, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)
