"""LocalViT (Li et al. 2021): depthwise convolutions in the feed-forward networks of DeiT."""

import math
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import (
    Change,
    CheckpointLayout,
    LayoutOptions,
    Licences,
    Line,
    Publishing,
    SpecialTensors,
    StateDict,
)
from densevit.layers.attention import MultiHeadAttention
from densevit.layers.drop_path import DropPath
from densevit.layouts import GRID, TOKENS, added_to_tokens
from densevit_papers import plain_vit
from densevit_papers.plain_vit import EPS, PatchEmbedding, PlainViT, Readout, feature_blocks

Activation = Literal["relu6", "hswish", "hswish_eca", "hswish_se"]
_EXPANSION = 4  # of the feed-forward networks


class Variant(NamedTuple):
    """The sizes of a model of the paper."""

    width: int
    depth: int
    heads: int


# DeiT-T and -S have 3 and 6 heads; the authors' code has 4 and 8.
VARIANTS = {"nano": Variant(128, 6, 4), "tiny": Variant(192, 12, 4), "small": Variant(384, 12, 8)}


class LocalViT(PlainViT):
    """LocalViT (Li et al. 2021, section 3): DeiT whose feed-forward networks are inverted residual blocks on the map.

    The class token takes part in attention only. Any input size: an image is padded with zeros at the right and the
    bottom to a multiple of the patch size, and each map is ceil(size / patch size). Attention is global and not masked,
    and the channel attention of "hswish_se" and "hswish_eca" averages the whole map: if an image is padded further, all
    its features change.

    variant: "tiny" and "small" of the paper's table 6; "nano" (128 channels, 6 blocks) is for CPUs.
    patch_size: the side of a patch in pixels; also the stride of the features.
    activation: the activation after the first two convolutions, and the channel attention after them (table 2): ReLU6;
        h-swish; h-swish with efficient channel attention (ECA, Wang et al. 2020); h-swish with squeeze and excitation
        (SE).
    se_reduction: expanded channels divided by the channels of SE's hidden layer. None: the width of the variant, so
        that there are 4, as in LocalViT-T and -S; 4 in LocalViT-T-SE4.
    image_size: the side in pixels of the image of the position table, which is resized for other images.
    features: the numbers, from 1, of the blocks whose outputs are the features; None: the last blocks of the four
        quarters. Blocks after the last one are not built.
    readout: use of the class token in the features. "ignore": none; "add": added to each cell; "project": concatenated
        to each cell, then a linear layer and a GELU per feature (DPT, Ranftl et al. 2021, section 3.1).
    drop_path: stochastic depth of attention in the last block, linear from 0 at the first. The feed-forward networks
        have none, as in the authors' code.
    gradient_checkpointing: activation checkpointing per block in training.
    in_channels: the number of channels of images.
    """

    def __init__(
        self,
        variant: Literal["nano", "tiny", "small"] = "tiny",
        patch_size: Literal[8, 16] = 16,
        activation: Activation = "hswish_se",
        se_reduction: int | None = None,
        image_size: int = 224,
        features: tuple[int, ...] | None = None,
        readout: Readout = "ignore",
        drop_path: float = 0.1,
        gradient_checkpointing: bool = False,
        in_channels: int = 3,
    ) -> None:
        width, depth, heads = VARIANTS[variant]
        if se_reduction is not None and activation != "hswish_se":
            raise ValueError(
                f"se_reduction is {se_reduction}, but activation is {activation!r}; it is for 'hswish_se'."
            )
        reduction = width if se_reduction is None else se_reduction
        if not 1 <= reduction <= _EXPANSION * width:
            raise ValueError(f"se_reduction is {reduction}; it must be from 1 to {_EXPANSION * width}.")
        numbers = feature_blocks(features, depth)
        rates = [drop_path * i / (depth - 1) for i in range(numbers[-1])]
        blocks = [Block(width, heads, activation, reduction, rate) for rate in rates]
        embedding = PatchEmbedding(width, patch_size, in_channels)
        super().__init__(embedding, blocks, width, patch_size, image_size, numbers, readout, gradient_checkpointing)


class Block(nn.Module):
    """Attention after a norm, then the convolutional feed-forward network on the map, without a norm before it."""

    def __init__(self, width: int, heads: int, activation: Activation, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, EPS)
        self.attention = MultiHeadAttention(width, heads)
        self.drop_path = DropPath(drop_path)
        self.mlp = LocalFeedForward(width, activation, reduction)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (B, 1 + H * W, C), the class token first. grid: (H, W)."""
        y = self.norm(x)
        x = x + self.drop_path(self.attention(y, y, y))
        maps = x[:, 1:].transpose(1, 2).unflatten(2, grid)  # (B, C, H, W)
        branch = self.mlp(maps).flatten(2).transpose(1, 2)
        return x + F.pad(branch, (0, 0, 1, 0))  # the class token skips this network


class LocalFeedForward(nn.Module):
    """1x1, depthwise 3x3 and 1x1 convolutions, each with batch norm (section 3.3, equation 6)."""

    def __init__(self, width: int, activation: Activation, reduction: int) -> None:
        super().__init__()
        hidden = _EXPANSION * width
        self.expand = nn.Conv2d(width, hidden, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(hidden)
        self.activation = nn.ReLU6() if activation == "relu6" else nn.Hardswish()
        self.gate: nn.Module | None = None
        if activation == "hswish_se":
            self.gate = squeeze_excitation(hidden, hidden // reduction)
        elif activation == "hswish_eca":
            self.gate = EfficientChannelAttention(hidden)
        self.contract = nn.Conv2d(hidden, width, 1, bias=False)
        self.contract_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = self.activation(self.expand_norm(self.expand(x)))
        x = self.activation(self.depthwise_norm(self.depthwise(x)))
        x = x if self.gate is None else self.gate(x)
        return self.contract_norm(self.contract(x))


def squeeze_excitation(channels: int, hidden: int) -> nn.Module:
    """SE with a hard sigmoid (MobileNetV3, Howard et al. 2019), initialised as in the authors' code."""
    from torchvision.ops import SqueezeExcitation  # seconds

    layer = SqueezeExcitation(channels, hidden, scale_activation=nn.Hardsigmoid)
    for convolution in (layer.fc1, layer.fc2):
        nn.init.trunc_normal_(convolution.weight, std=0.02)
        nn.init.zeros_(convolution.bias)
    return layer


class EfficientChannelAttention(nn.Module):
    """ECA (Wang et al. 2020): each channel's weight is a sigmoid of a 1-d convolution over the channels' means.

    The kernel size is (log2(channels) + 1) / 2, rounded down; if even, the next odd number.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = int((math.log2(channels) + 1) / 2) // 2 * 2 + 1
        self.convolution = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        means = x.mean((2, 3))[:, None]  # (B, 1, C)
        return x * self.convolution(means).sigmoid()[:, 0, :, None, None]


_POINTWISE = Change(lambda weight: weight[:, :, None, None], lambda weight: weight[:, :, 0, 0])
_BLOCK = (
    ("norm1.*", "norm.*", None),
    *((f"attn.qkv.*[{i}/3]", f"attention.{name}.*", None) for i, name in enumerate(("query", "key", "value"))),
    ("attn.proj.*", "attention.output.*", None),
    ("conv.conv.0.weight", "mlp.expand.weight", None),
    ("conv.conv.1.*", "mlp.expand_norm.*", None),
    ("conv.conv.3.weight", "mlp.depthwise.weight", None),
    ("conv.conv.4.*", "mlp.depthwise_norm.*", None),
    ("conv.conv.6.fc.0.weight", "mlp.gate.fc1.weight", _POINTWISE),
    ("conv.conv.6.fc.0.bias", "mlp.gate.fc1.bias", None),
    ("conv.conv.6.fc.2.weight", "mlp.gate.fc2.weight", _POINTWISE),
    ("conv.conv.6.fc.2.bias", "mlp.gate.fc2.bias", None),
    ("conv.conv.7.weight", "mlp.contract.weight", None),
    ("conv.conv.8.*", "mlp.contract_norm.*", None),
)


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config section of a LocalViT with SE, from tensors with densevit's keys."""
    options = plain_vit.describe("LocalViT", VARIANTS, tensors, tensors["embedding.projection.weight"].shape[-1])
    width = VARIANTS[options["variant"]].width
    reduction = _EXPANSION * width // len(tensors["blocks.0.mlp.gate.fc1.weight"])
    if reduction != width:
        options["se_reduction"] = reduction
    return {"backbone": {"name": "local_vit", **options}}


AUTHORS = CheckpointLayout(
    name="localvit",
    signature_keys=("patch_embed.proj.weight", "blocks.{i}.attn.qkv.weight", "blocks.{i}.conv.conv.6.fc.0.weight"),
    lines=(
        Line("cls_token", "class_token", TOKENS),
        Line("pos_embed", "position_table", GRID),
        Line("patch_embed.proj.*", "embedding.projection.*"),
        *(Line("blocks.{i}." + source, "blocks.{i}." + target, change) for source, target, change in _BLOCK),
        Line("norm.*", "norm.*"),
    ),
    describe=describe,
    special=SpecialTensors(
        rearrange=added_to_tokens("pos_embed", ("cls_token",)), no_effect={"head.*": "the classification head"}
    ),
    options=LayoutOptions(runtime=("features", "readout")),
    publishing=Publishing(
        licences=Licences(
            "MIT",
            data="ImageNet",
            teacher="none",
            source="https://github.com/ofsoundof/LocalViT/blob/f497260/LICENSE",
            date="2026-11-29",
        )
    ),
    container="model",  # of which the published scores are, as in DeiT's code
)
