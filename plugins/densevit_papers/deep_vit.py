"""DeepViT (Zhou et al. 2021): attention maps of the heads are mixed, so that deep blocks keep different maps."""

from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from densevit.interfaces import CheckpointLayout, LayoutOptions, Licences, Line, Publishing, SpecialTensors, StateDict
from densevit.layers.attention import MultiHeadAttention
from densevit.layers.drop_path import DropPath
from densevit.layers.mlp import FeedForward
from densevit.layouts import GRID, TOKENS, added_to_tokens
from densevit_papers import plain_vit
from densevit_papers.plain_vit import EPS, PatchEmbedding, PlainViT, Readout, feature_blocks

_EXPANSION = 3  # of the MLPs


class Variant(NamedTuple):
    """Sizes and settings of a model in the authors' code.

    reattention: the number of last blocks with re-attention. convolutions: adds convolutions before the patches.
    scaled_maps: mixed maps are multiplied by 1 / sqrt(D). residual_scale: the argument of `Block`.
    """

    width: int
    depth: int
    heads: int
    reattention: int
    convolutions: bool
    scaled_maps: bool
    residual_scale: float


VARIANTS = {
    "nano": Variant(128, 8, 4, 4, True, True, 0.5),
    "16b": Variant(384, 16, 12, 16, False, False, 1.0),
    "24b": Variant(384, 24, 12, 24, False, False, 1.0),
    "32b": Variant(384, 32, 12, 32, False, False, 1.0),
    "small": Variant(396, 16, 12, 5, True, True, 0.5),
    "large": Variant(420, 32, 12, 12, True, False, 0.5),
}


class DeepViT(PlainViT):
    """DeepViT: a plain vision transformer with re-attention in its last blocks (Zhou et al. 2021, section 4).

    Any input size: an image is padded with zeros at the right and the bottom to a multiple of the patch size, and each
    map is ceil(size / patch size). Attention is global and not masked: if an image is padded further, all its features
    change.

    variant: "small" and "large", DeepViT-S and -L, with a convolutional embedding and re-attention in the last 5 of 16
        and 12 of 32 blocks; "16b", "24b" and "32b" of the paper's table 5, with plain patches and re-attention in all
        blocks; "nano" (128 channels, 8 blocks) is for CPUs.
    patch_size: the side of a patch in pixels; also the stride of the features.
    image_size: the side in pixels of the image of the position table, which is resized for other images.
    features: the numbers, from 1, of the blocks whose outputs are the features; None: the last blocks of the four
        quarters. Blocks after the last one are not built.
    readout: use of the class token in the features. "ignore": none; "add": added to each cell; "project": concatenated
        to each cell, then a linear layer and a GELU per feature (DPT, Ranftl et al. 2021, section 3.1).
    drop_path: stochastic depth of the last block, linear from 0 at the first.
    gradient_checkpointing: activation checkpointing per block in training.
    in_channels: the number of channels of images.
    """

    def __init__(
        self,
        variant: Literal["nano", "16b", "24b", "32b", "small", "large"] = "small",
        patch_size: Literal[8, 16] = 16,
        image_size: int = 224,
        features: tuple[int, ...] | None = None,
        readout: Readout = "ignore",
        drop_path: float = 0.2,
        gradient_checkpointing: bool = False,
        in_channels: int = 3,
    ) -> None:
        sizes = VARIANTS[variant]
        numbers = feature_blocks(features, sizes.depth)
        blocks = [
            Block(sizes, drop_path * i / (sizes.depth - 1), i >= sizes.depth - sizes.reattention)
            for i in range(numbers[-1])
        ]
        embedding = (ConvEmbedding if sizes.convolutions else PatchEmbedding)(sizes.width, patch_size, in_channels)
        super().__init__(
            embedding, blocks, sizes.width, patch_size, image_size, numbers, readout, gradient_checkpointing
        )


class ConvEmbedding(nn.Module):
    """A 7x7 convolution of stride 2, a 3x3 convolution, then a linear projection of patches (from T2T-ViT)."""

    def __init__(self, width: int, patch_size: int, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.norm1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(64)
        self.projection = nn.Conv2d(64, width, patch_size // 2, stride=patch_size // 2)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, C, H / patch size, W / patch size)."""
        x = self.norm1(self.conv1(images)).relu()
        return self.projection(self.norm2(self.conv2(x)).relu())


class Block(nn.Module):
    """Attention and MLP, each after a norm.

    With a residual scale r, the authors' code multiplies the input of each norm by r and divides the output of
    attention and MLP by r. Here the norm's epsilon is divided by r^2 instead, which gives the same output as the
    multiplication; the outputs of attention and MLP are divided by r as well.
    """

    def __init__(self, variant: Variant, drop_path: float, reattention: bool) -> None:
        super().__init__()
        width, scale = variant.width, variant.residual_scale
        self.branch_scale = 1 / scale
        self.norm1 = nn.LayerNorm(width, EPS / scale**2)
        if reattention:
            self.attention: MultiHeadAttention = ReAttention(width, variant.heads, variant.scaled_maps)
        else:
            self.attention = MultiHeadAttention(width, variant.heads)
        self.norm2 = nn.LayerNorm(width, EPS / scale**2)
        self.mlp = FeedForward(width, _EXPANSION * width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (B, 1 + H * W, C), the class token first. grid: (H, W)."""
        y = self.norm1(x)
        x = x + self.branch_scale * self.drop_path(self.attention(y, y, y))
        return x + self.branch_scale * self.drop_path(self.mlp(self.norm2(x)))


class ReAttention(MultiHeadAttention):
    """Attention whose maps are mixed over the heads by a learned matrix, then normalised (equation 3).

    The norm is a batch norm with one channel per head; rows of a map are then neither positive nor do they sum to 1.

    scaled_maps: multiplies the maps by 1 / sqrt(D), as DeepViT-S in the authors' code.
    """

    def __init__(self, width: int, num_heads: int, scaled_maps: bool) -> None:
        super().__init__(width, num_heads)
        self.scale = (width // num_heads) ** -0.5
        self.map_scale = self.scale if scaled_maps else 1.0
        self.mixing = nn.Conv2d(num_heads, num_heads, 1)
        self.map_norm = nn.BatchNorm2d(num_heads)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention whose maps are mixed between heads, with the arguments of `MultiHeadAttention`."""
        q, k, v = self._heads(self.query, query), self._heads(self.key, key), self._heads(self.value, value)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        maps = (scores if bias is None else scores + bias.to(scores.dtype)).softmax(-1)  # (B, heads, N, S)
        maps = self.map_norm(self.mixing(maps)) * self.map_scale
        return self.output((maps.to(v.dtype) @ v).transpose(1, 2).flatten(2))


def describe(tensors: StateDict) -> dict[str, Any]:
    """The config section of a DeepViT, from tensors with densevit's keys."""
    patch = tensors["embedding.projection.weight"].shape[-1] * (2 if "embedding.conv1.weight" in tensors else 1)
    return {"backbone": {"name": "deep_vit", **plain_vit.describe("DeepViT", VARIANTS, tensors, patch)}}


_BLOCK = {
    "norm1": "norm1",
    "attn.reatten_matrix": "attention.mixing",
    "attn.var_norm": "attention.map_norm",
    "attn.proj": "attention.output",
    "norm2": "norm2",
    "mlp.fc1": "mlp.expand",
    "mlp.fc2": "mlp.contract",
}
_QKV = ("query", "key", "value")
_EMBEDDING = {"conv1": "conv1", "bn1": "norm1", "conv2": "conv2", "bn2": "norm2", "proj": "projection"}
AUTHORS = CheckpointLayout(
    name="deepvit",
    signature_keys=(
        "patch_embed.proj.weight",
        "blocks.{i}.norm1.weight",
        "blocks.{i}.attn.qkv.weight",
        "blocks.{i}.attn.reatten_matrix.weight",
        "blocks.{i}.attn.var_norm.weight",
    ),
    lines=(
        Line("cls_token", "class_token", TOKENS),
        Line("pos_embed", "position_table", GRID),
        *(Line(f"patch_embed.{source}.*", f"embedding.{target}.*") for source, target in _EMBEDDING.items()),
        *(Line(f"blocks.{{b}}.{source}.*", f"blocks.{{b}}.{target}.*") for source, target in _BLOCK.items()),
        *(Line(f"blocks.{{b}}.attn.qkv.*[{i}/3]", f"blocks.{{b}}.attention.{name}.*") for i, name in enumerate(_QKV)),
        Line("norm.*", "norm.*"),
    ),
    describe=describe,
    special=SpecialTensors(
        rearrange=added_to_tokens("pos_embed", ("cls_token",)), no_effect={"head.*": "the classification head"}
    ),
    options=LayoutOptions(runtime=("features", "readout")),
    publishing=Publishing(
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        licences=Licences(
            "MIT",
            data="ImageNet",
            teacher="none",
            source="https://github.com/zhoudaquan/dvit_repo/blob/1ccb152/LICENSE",
            date="2026-11-29",
        ),
    ),
)
