"""GTR (gated token recurrence, arXiv 2609.26590): gated linear attention in four scan directions."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Backbone
from densevit.layers import checkpointing as activation_checkpointing
from densevit.layers.drop_path import DropPath
from densevit.layers.precision import at_least_fp32, autocast_off
from densevit_backbones.gtr.recurrence import chunked
from densevit_backbones.gtr.variants import VARIANTS

_BLOCKS, _DIRECTIONS = 12, 4
_HEAD_WIDTH = 64  # of values; queries and keys have half of it
_DECAY_RANK, _DECAY_TEMPERATURE = 16, 16


class Gtr(Backbone):
    """GTR: the features of blocks 4, 8 and 12, all of stride 16 and without a norm.

    Any input size; the map is ceil(size / 16), by the padding of the strided convolutions. Positions come from the
    recurrence and from a depthwise convolution in each MLP. Four blocks in turn scan the rows from the first and from
    the last token, then the columns; the map of a block is flipped and transposed with its tokens, and its
    convolution too. Padding of the image at the right and bottom changes features, because half of the scans begin
    there.

    variant: "s", "m", "l" or "x".
    drop_path: stochastic depth of the last block, linear from 0 at the first; 0 as the authors.
    gradient_checkpointing: activation checkpointing per block in training.
    in_channels: the number of channels of images.
    """

    def __init__(
        self,
        variant: Literal["s", "m", "l", "x"] = "s",
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        width, hidden = VARIANTS[variant]
        self.channels, self.strides = (width,) * (_BLOCKS // _DIRECTIONS), (16,) * (_BLOCKS // _DIRECTIONS)
        self.gradient_checkpointing = gradient_checkpointing
        self.stem = _stem(in_channels, width)
        self.blocks = nn.ModuleList(Block(width, hidden, drop_path * i / (_BLOCKS - 1)) for i in range(_BLOCKS))
        self.apply(_initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, features = self.stem(images).permute(0, 2, 3, 1), []
        for i, block in enumerate(self.blocks):
            x = activation_checkpointing.run(block, x, checkpointed=self.gradient_checkpointing and self.training)
            x = x.flip(1, 2)
            if i % 2 == 1:
                x = x.transpose(1, 2)
            if i % _DIRECTIONS == _DIRECTIONS - 1:  # again in the direction of the image
                features.append(x.permute(0, 3, 1, 2))
        return features

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Groups: the stem and each block."""
        return [list(part.parameters()) for part in (self.stem, *self.blocks)]


class Block(nn.Module):
    """Gated linear attention and an MLP, each after a norm and with a residual connection."""

    def __init__(self, width: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = GatedLinearAttention(width, width // _HEAD_WIDTH)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = SpatialSwiGLU(width, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class GatedLinearAttention(nn.Module):
    """Gated linear attention over the tokens of a map in row-major order, with a gated RMS norm of each head.

    The recurrence and the norm are computed in at least fp32.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.recurrence = num_heads, chunked
        self.query = nn.Linear(width, width // 2, bias=False)
        self.key = nn.Linear(width, width // 2, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.decay = nn.Sequential(nn.Linear(width, _DECAY_RANK, bias=False), nn.Linear(_DECAY_RANK, width // 2))
        self.gate = nn.Linear(width, width, bias=False)
        self.norm = nn.RMSNorm(width // num_heads, eps=1e-5)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        B, H, W, C = x.shape
        layers = (self.query, self.key, self.value, self.decay, self.gate)
        query, key, value, decay, gate = (
            at_least_fp32(layer(x)).view(B, H * W, self.num_heads, -1).transpose(1, 2) for layer in layers
        )  # (B, heads, N, D)
        with autocast_off(x.device):
            log_decay = -F.softplus(-decay) / _DECAY_TEMPERATURE  # ONNX's logsigmoid is infinite below -88
            y = self.recurrence(query, key, value, log_decay)
            y = self.norm(y) * F.silu(gate)
        return self.output(y.transpose(1, 2).reshape(B, H, W, C).to(x.dtype))


class SpatialSwiGLU(nn.Module):
    """A gated MLP with a depthwise 3x3 convolution of the gated half."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 2 * hidden, bias=False)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.contract = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        gate, value = self.expand(x).chunk(2, dim=-1)
        value = self.depthwise(value.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.contract(F.silu(gate) * value)


def _stem(inputs: int, width: int) -> nn.Sequential:
    """Four 3x3 convolutions of stride 2 that double the channels up to `width`; the last one has neither norm nor
    activation. (B, C, H, W) -> (B, width, ceil(H / 16), ceil(W / 16))."""
    layers: list[nn.Module] = []
    for outputs in (width // 8, width // 4, width // 2):
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        inputs = outputs
    return nn.Sequential(*layers, nn.Conv2d(inputs, width, 3, stride=2, padding=1))


def _initialise(module: nn.Module) -> None:
    """Initial weights of the authors' code."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
