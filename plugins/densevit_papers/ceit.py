"""CeiT (Yuan et al. 2021): a plain vision transformer with convolutions in its stem and in its feed-forward layers."""

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.errors import WeightsError
from densevit.interfaces import (
    Backbone,
    CheckpointLayout,
    LayoutOptions,
    Licences,
    Line,
    Publishing,
    SpecialTensors,
    StateDict,
)
from densevit.layers.attention import MultiHeadAttention
from densevit.layers.checkpointing import run
from densevit.layers.drop_path import DropPath
from densevit.layers.initial_weights import truncated_normal
from densevit.layers.mlp import FeedForward
from densevit.layers.positions import resize_grid
from densevit.layouts import GRID, TOKENS, added_to_tokens, by_name_only, count
from densevit_papers.plain_vit import EPS, as_map, feature_blocks

_EXPANSION = 4  # of LeFF and of the MLP of LCA
_STEM_WIDTH, _STEM_STRIDE = 64, 4
_RESIZING: Literal["bicubic"] = "bicubic"  # of positions, as the authors' fine-tuning at 384 pixels


class Variant(NamedTuple):
    """The sizes of a model of the paper."""

    width: int
    depth: int
    heads: int
    drop_path: float


VARIANTS = {
    "nano": Variant(128, 6, 4, 0.0),
    "tiny": Variant(192, 12, 3, 0.1),
    "small": Variant(384, 12, 6, 0.1),
    "base": Variant(768, 12, 12, 0.1),
}


class CeiT(Backbone):
    """Convolution-enhanced image Transformer: features of one stride, after some of its blocks, each with a layer norm.

    Any input size: an image is padded with zeros at the right and the bottom to a multiple of the stride, and each map
    is ceil(size / stride). Attention is global and not masked: further padding, as in a batch with a larger image,
    changes all features, and positions are resized to the larger grid. The norms of the features are not in the paper,
    whose classifier normalises the class token only.

    variant: "tiny", "small" and "base" of the paper and its code; "nano" (128 channels, 6 blocks) is for CPUs.
    patch_size: side of a patch in cells of the stem's map, whose stride is 4. The stride of the features is 4 times the
    patch size: 16 in the paper.
    image_size: the side in pixels of the image of the position table, which is resized to other grids (bicubic).
    readout: use of the class tokens in the last map. "ignore": none; the layer-wise class-token attention (LCA) is then
        not built, because no cell depends on it. "lca": LCA, an attention over the class tokens after all blocks, whose
        result, which the paper classifies, is added to each cell of the last feature, as DPT adds a class token.
    features: the numbers, from 1, of the blocks whose outputs are the features; None: the last blocks of the four
        quarters. Blocks after the last one are not built.
    drop_path: stochastic depth of the last block, linear from 0 at the first; None: 0.1 as the authors train, 0 for
        "nano".
    gradient_checkpointing: activation checkpointing per block in training.
    in_channels: the number of channels of images.
    """

    def __init__(
        self,
        variant: Literal["nano", "tiny", "small", "base"] = "tiny",
        patch_size: Literal[2, 4, 8] = 4,
        image_size: int = 224,
        readout: Literal["ignore", "lca"] = "ignore",
        features: tuple[int, ...] | None = None,
        drop_path: float | None = None,
        gradient_checkpointing: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        width, depth, heads, default_drop = VARIANTS[variant]
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}; it must be more than 0.")
        features = feature_blocks(features, depth)
        last_rate = default_drop if drop_path is None else drop_path
        self.stride = _STEM_STRIDE * patch_size
        self.channels, self.strides = (width,) * len(features), (self.stride,) * len(features)
        self.feature_blocks, self.gradient_checkpointing = features, gradient_checkpointing
        self.stem = ImageToTokens(width, patch_size, in_channels)
        self.position_side = -(-image_size // self.stride)
        self.position_table = nn.Parameter(torch.zeros(self.position_side, self.position_side, width))
        self.class_token = nn.Parameter(torch.zeros(1, width))
        rates = [last_rate * i / (depth - 1) for i in range(features[-1])]
        self.blocks = nn.ModuleList(Block(width, heads, rate) for rate in rates)
        self.feature_norms = nn.ModuleList(nn.LayerNorm(width, EPS) for _ in features)
        self.class_attention = ClassTokenAttention(width, heads, len(self.blocks)) if readout == "lca" else None
        self.apply(truncated_normal)  # as the authors; LeFF's 1x1 convolutions keep torch's values
        for table in (self.position_table, self.class_token):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, images: Tensor) -> list[Tensor]:
        cells = self.stem(images)  # (B, C, H, W)
        grid = (cells.shape[2], cells.shape[3])
        positions = resize_grid(self.position_table, grid, _RESIZING).flatten(0, 1)
        x = cells.flatten(2).transpose(1, 2)
        class_token = self.class_token.to(x.dtype).expand(x.shape[0], -1, -1)
        x = torch.cat([class_token, x + positions.to(x.dtype)], dim=1)  # (B, 1 + N, C)
        features: list[Tensor] = []
        class_tokens: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x = run(block, x, grid, checkpointed=self.gradient_checkpointing and self.training)
            class_tokens.append(x[:, 0])
            if i + 1 in self.feature_blocks:
                norm = self.feature_norms[len(features)]
                features.append(as_map(norm(x[:, 1:]), grid))
        if self.class_attention is not None:
            token = self.class_attention(torch.stack(class_tokens, dim=1))  # (B, C)
            features[-1] = features[-1] + token[:, :, None, None]
        return features

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Groups: the stem with the positions and the class token, each block, and norms with LCA."""
        first = [*self.stem.parameters(), self.position_table, self.class_token]
        last = list(self.feature_norms.parameters())
        last += [] if self.class_attention is None else list(self.class_attention.parameters())
        return [first, *(list(block.parameters()) for block in self.blocks), last]

    def carried_over(self, name: str, tensor: Tensor) -> tuple[Tensor, str] | None:
        """Resizes a position table of another grid; see `densevit.weights.state_dict_loading.fit`."""
        side = self.position_side
        return (resize_grid(tensor, (side, side), _RESIZING), "interpolated") if name == "position_table" else None


class ImageToTokens(nn.Module):
    """Image-to-tokens (I2T): a 7x7 convolution, batch norm, max pooling and a projection of patches (section 3.2).

    There is no activation before the pooling.
    """

    def __init__(self, width: int, patch_size: int, in_channels: int = 3) -> None:
        super().__init__()
        self.stride = _STEM_STRIDE * patch_size
        self.convolution = nn.Conv2d(in_channels, _STEM_WIDTH, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(_STEM_WIDTH)
        self.pooling = nn.MaxPool2d(3, stride=2, padding=1)
        self.projection = nn.Conv2d(_STEM_WIDTH, width, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""
        H, W = images.shape[-2:]
        x = F.pad(images, (0, -W % self.stride, 0, -H % self.stride))
        return self.projection(self.pooling(self.norm(self.convolution(x))))


class Block(nn.Module):
    """Attention and LeFF, each after a layer norm and with a residual connection.

    The class token skips LeFF: its layer norm is added to it instead.
    """

    def __init__(self, width: int, num_heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPS)
        self.attention = MultiHeadAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, EPS)
        self.feed_forward = LocallyEnhancedFeedForward(width, _EXPANSION * width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (B, 1 + H * W, C), the class token first. grid: (H, W). Returns the shape of x."""
        y = self.norm1(x)
        x = x + self.drop_path(self.attention(y, y, y))
        y = self.norm2(x)
        cells = self.feed_forward(as_map(y[:, 1:], grid)).flatten(2).transpose(1, 2)
        return x + self.drop_path(torch.cat([y[:, :1].to(cells.dtype), cells], dim=1))


class LocallyEnhancedFeedForward(nn.Module):
    """Locally-enhanced feed-forward (LeFF): a depthwise 3x3 convolution between two linear layers (section 3.3).

    Batch norm follows each layer, and a GELU the first two. The linear layers are 1x1 convolutions.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand, self.expand_norm = nn.Conv2d(width, hidden, 1), nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.depthwise_norm = nn.BatchNorm2d(hidden)
        self.contract, self.contract_norm = nn.Conv2d(hidden, width, 1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W), the tokens as a map. Returns the shape of x."""
        x = F.gelu(self.expand_norm(self.expand(x)))
        x = F.gelu(self.depthwise_norm(self.depthwise(x)))
        return self.contract_norm(self.contract(x))


class ClassTokenAttention(nn.Module):
    """Layer-wise class-token attention (LCA, section 3.4): a block in which the last class token attends to all class
    tokens.

    layers: the number of class tokens, each with a position embedding, which starts as zeros.
    """

    def __init__(self, width: int, num_heads: int, layers: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(layers, width))
        self.norm1 = nn.LayerNorm(width, EPS)
        self.attention = MultiHeadAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, EPS)
        self.mlp = FeedForward(width, _EXPANSION * width)
        self.norm = nn.LayerNorm(width, EPS)

    def forward(self, class_tokens: Tensor) -> Tensor:
        """class_tokens: (B, L, C), of the first block first. Returns (B, C)."""
        x = class_tokens + self.positions.to(class_tokens.dtype)
        y, last = self.norm1(x), x[:, -1:]
        last = last + self.attention(y[:, -1:], y, y)
        last = last + self.mlp(self.norm2(last))
        return self.norm(last).squeeze(1)


def _describe(tensors: StateDict) -> dict[str, Any]:
    """The config section of a CeiT, from tensors with densevit's keys."""
    width, depth = len(tensors["blocks.0.norm1.weight"]), count(tensors, r"blocks\.(\d+)\.norm1\.weight")
    variant = next((name for name, sizes in VARIANTS.items() if (sizes.width, sizes.depth) == (width, depth)), None)
    if variant is None:
        variants = ", ".join(f"{name} {sizes.width} and {sizes.depth}" for name, sizes in VARIANTS.items())
        raise WeightsError(f"A CeiT of {width} channels and {depth} blocks is not a known variant: {variants}.")
    patch_size = tensors["stem.projection.weight"].shape[-1]
    options: dict[str, Any] = {"name": "ceit", "variant": variant, "patch_size": patch_size}
    options["image_size"] = _STEM_STRIDE * patch_size * len(tensors["position_table"])
    return {"backbone": options | ({"readout": "lca"} if "class_attention.positions" in tensors else {})}


def _block(source: str, target: str) -> tuple[Line, ...]:
    """Maps the keys of a block, except its feed-forward layer."""
    return (
        Line(f"{source}.norm1.*", f"{target}.norm1.*"),
        *(
            Line(f"{source}.attn.qkv.*[{i}/3]", f"{target}.attention.{name}.*")
            for i, name in enumerate(("query", "key", "value"))
        ),
        Line(f"{source}.attn.proj.*", f"{target}.attention.output.*"),
        Line(f"{source}.norm2.*", f"{target}.norm2.*"),
    )


_LINES = (
    Line("cls_token", "class_token", TOKENS),
    Line("pos_embed", "position_table", GRID),
    Line("i2t.backbone.conv.*", "stem.convolution.*"),
    Line("i2t.backbone.bn.*", "stem.norm.*"),
    Line("i2t.proj.*", "stem.projection.*"),
    *_block("blocks.{i}", "blocks.{i}"),
    *(
        Line(f"blocks.{{i}}.leff.{source}{number}.*", f"blocks.{{i}}.feed_forward.{name}{target}.*")
        for number, name in enumerate(("expand", "depthwise", "contract"), start=1)
        for source, target in (("conv", ""), ("bn", "_norm"))
    ),
)
_CLASS_ATTENTION = (
    Line("pos_layer_embed", "class_attention.positions", TOKENS),
    *_block("lca", "class_attention"),
    Line("lca.feedforward.fc1.*", "class_attention.mlp.expand.*"),
    Line("lca.feedforward.fc2.*", "class_attention.mlp.contract.*"),
    Line("norm.*", "class_attention.norm.*"),
)
_HEAD = {"head.*": "the classification head"}
_LCA = "layer-wise class-token attention, on which no cell depends"

WITH_LCA = CheckpointLayout(
    name="ceit-lca",
    signature_keys=("i2t.backbone.conv.weight", "blocks.{i}.leff.conv2.weight", "pos_layer_embed"),
    lines=(*_LINES, *_CLASS_ATTENTION),
    describe=_describe,
    fits=by_name_only,
    special=SpecialTensors(
        rearrange=added_to_tokens("pos_embed", ("cls_token",)),
        no_effect=_HEAD,
        missing={"feature_norms.{i}.*": "a norm of a feature map, which a classifier lacks"},
    ),
    options=LayoutOptions(runtime=("features",)),
    publishing=Publishing(
        licences=Licences(
            "Apache-2.0",
            data="ImageNet",
            teacher="none",
            source="https://github.com/coeusguo/ceit/blob/44c16d3/LICENSE",
            date="2026-11-29",
        ),
    ),
    container="model",  # of which the published scores are, as in DeiT's code
)
AUTHORS = replace(
    WITH_LCA,
    name="ceit",
    lines=_LINES,
    variants=(WITH_LCA,),
    fits=None,
    special=replace(
        WITH_LCA.special,
        no_effect={**_HEAD, "norm.*": _LCA, "lca.*": _LCA, "pos_layer_embed": _LCA},
        missing={**WITH_LCA.special.missing, "class_attention.*": _LCA},
    ),
    options=LayoutOptions(runtime=("features", "readout")),
)
