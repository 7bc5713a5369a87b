"""CvT (Wu et al. 2021): a transformer of three stages with convolutions before tokens and before queries and keys."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.errors import WeightsError
from densevit.interfaces import (
    Backbone,
    CheckpointLayout,
    Class,
    LayoutOptions,
    Licences,
    Line,
    OtherKeys,
    PublishedModel,
    Publishing,
    SpecialTensors,
    StateDict,
)
from densevit.layers.attention import attention
from densevit.layers.checkpointing import run
from densevit.layers.drop_path import DropPath
from densevit.layers.initial_weights import truncated_normal
from densevit.layers.mlp import FeedForward
from densevit.layouts import TOKENS, count
from densevit_papers.parameters import stage_depths
from densevit_papers.plain_vit import as_map

_LICENCES = Licences(
    "MIT", "unknown", "ImageNet", "none", "https://github.com/microsoft/CvT/blob/f851e68/README.md", "2026-11-29"
)

_EXPANSION = 4  # of the MLPs
_KEY_STRIDE = 2  # of the convolutions before keys and values


class Variant(NamedTuple):
    """The sizes of a model of the paper."""

    widths: tuple[int, ...]
    heads: tuple[int, ...]
    blocks: tuple[int, ...]
    drop_path: float


VARIANTS = {
    "nano": Variant((32, 64, 128), (1, 2, 4), (1, 2, 4), 0.0),
    "13": Variant((64, 192, 384), (1, 3, 6), (1, 2, 10), 0.1),
    "21": Variant((64, 192, 384), (1, 3, 6), (1, 4, 16), 0.1),
    "w24": Variant((192, 768, 1024), (3, 12, 16), (2, 2, 20), 0.3),
}


class CvT(Backbone):
    """Convolutional vision Transformer: features of strides 4, 8 and 16, each with a layer norm.

    Any input size: an image is padded with zeros at the right and the bottom to a multiple of 4, and each map is
    ceil(size / stride). There are no position embeddings: the zeros around the maps of each convolution show where the
    border is. Attention is global and not masked, so padding of the image changes all features. The last stage has a
    class token, to which cells attend; features do not contain it. The norms of the features are not in the paper,
    whose classifier normalises the class token only.

    variant: "13", "21" and "w24" of the paper's table 2 (the number of blocks; in YAML in quotes); "nano" (32, 64 and
        128 channels, 7 blocks) is for CPUs.
    drop_path: stochastic depth of the last block, linear from 0 at the first block of the last stage; blocks of earlier
        stages have none. None: the paper's for ImageNet.
    gelu: the GELU of the MLPs. "quick": x sigmoid(1.702 x), as in the authors' code; "erf": exact, as in transformers,
        also with weights that were trained with "quick".
    gradient_checkpointing: activation checkpointing per block in training.
    in_channels: the number of channels of images.
    """

    def __init__(
        self,
        variant: Literal["nano", "13", "21", "w24"] = "13",
        drop_path: float | None = None,
        gelu: Literal["quick", "erf"] = "quick",
        gradient_checkpointing: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        widths, heads, blocks, default_drop = VARIANTS[variant]
        last_rate = default_drop if drop_path is None else drop_path
        self.channels, self.strides = widths, (4, 8, 16)
        self.gradient_checkpointing = gradient_checkpointing
        self.embeddings, self.stages = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            self.embeddings.append(
                ConvEmbedding(in_channels, width, 7, 4, 2) if i == 0 else ConvEmbedding(widths[i - 1], width, 3, 2, 1)
            )
            last = i == len(widths) - 1
            rates = [last_rate * j / max(blocks[i] - 1, 1) if last else 0.0 for j in range(blocks[i])]
            self.stages.append(nn.ModuleList(Block(width, heads[i], int(last), rate, gelu) for rate in rates))
        self.class_token = nn.Parameter(torch.zeros(1, widths[-1]))
        self.feature_norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.apply(truncated_normal)
        nn.init.trunc_normal_(self.class_token, std=0.02)

    def forward(self, images: Tensor) -> list[Tensor]:
        H, W = images.shape[-2:]
        x, features = F.pad(images, (0, -W % 4, 0, -H % 4)), []
        for i, (embedding, norm) in enumerate(zip(self.embeddings, self.feature_norms, strict=True)):
            x = embedding(x)  # (B, H, W, C)
            grid = (x.shape[1], x.shape[2])
            tokens = x.flatten(1, 2)
            has_class_token = i == len(self.stages) - 1
            if has_class_token:
                class_token = self.class_token.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
                tokens = torch.cat([class_token, tokens], dim=1)
            for block in self.stages[i].children():
                tokens = run(block, tokens, grid, checkpointed=self.gradient_checkpointing and self.training)
            cells = tokens[:, int(has_class_token) :]
            features.append(as_map(norm(cells), grid))
            x = as_map(cells, grid)
        return features

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Groups: the first embedding, and each block, with the embedding before and the norm after it."""
        embeddings = [list(embedding.parameters()) for embedding in self.embeddings]
        embeddings[-1].append(self.class_token)
        stages = zip(embeddings, self.stages, self.feature_norms, strict=True)
        return stage_depths((embedding, stage.children(), list(norm.parameters())) for embedding, stage, norm in stages)


class ConvEmbedding(nn.Module):
    """Convolutional token embedding: a strided convolution, whose windows overlap, and a layer norm (section 3.1)."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(inputs, width, kernel, stride, padding)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, ceil(H / stride), ceil(W / stride), width); for stride 4, H and W are multiples of 4."""
        return self.norm(self.projection(x).permute(0, 2, 3, 1))


class Block(nn.Module):
    """Convolutional attention and an MLP, each after a layer norm and with a residual connection."""

    def __init__(self, width: int, num_heads: int, num_tokens: int, drop_path: float, gelu: str) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = ConvAttention(width, num_heads, num_tokens)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, _EXPANSION * width, QuickGELU if gelu == "quick" else nn.GELU)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (B, P + H * W, C). grid: (H, W). Returns the shape of x."""
        x = x + self.drop_path(self.attention(self.norm1(x), grid))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ConvAttention(nn.Module):
    """Multi-head attention with convolutional projections (section 3.2).

    Keys and values come from a map of half the height and width. Scores are divided by the square root of the number of
    all channels, as in the authors' code, instead of a head's channels.

    num_tokens: class tokens before the cells. They skip the convolutions.
    """

    def __init__(self, width: int, num_heads: int, num_tokens: int) -> None:
        super().__init__()
        self.num_heads, self.num_tokens, self.scale, self.attention = num_heads, num_tokens, width**-0.5, attention
        self.query = ConvProjection(width, 1)
        self.key = ConvProjection(width, _KEY_STRIDE)
        self.value = ConvProjection(width, _KEY_STRIDE)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (B, P + H * W, C), P class tokens first. Returns the same shape."""
        tokens, cells = x[:, : self.num_tokens], as_map(x[:, self.num_tokens :], grid)
        query, key, value = (
            projection(tokens, cells).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N or S, D)
            for projection in (self.query, self.key, self.value)
        )
        return self.output(self.attention(query, key, value, scale=self.scale).transpose(1, 2).flatten(2))


class ConvProjection(nn.Module):
    """A depthwise 3x3 convolution, batch norm and a linear layer."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, stride, padding=1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, width)

    def forward(self, tokens: Tensor, cells: Tensor) -> Tensor:
        """tokens: (B, P, C). cells: (B, C, H, W). Returns (B, P + ceil(H / stride) * ceil(W / stride), C)."""
        x = self.norm(self.depthwise(cells)).flatten(2).transpose(1, 2)
        return self.linear(torch.cat([tokens.to(x.dtype), x], dim=1) if tokens.shape[1] else x)


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), an approximation of the GELU (Hendrycks and Gimpel 2016, section 2)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def _describe(tensors: StateDict, gelu: str) -> dict[str, Any]:
    """The config section of a CvT, from tensors with densevit's keys. gelu: the GELU of the project's code."""
    widths = tuple(len(tensors[f"embeddings.{i}.norm.weight"]) for i in range(3))
    blocks = tuple(count(tensors, rf"stages\.{i}\.(\d+)\.norm1\.weight") for i in range(3))
    sizes = {name: (variant.widths, variant.blocks) for name, variant in VARIANTS.items()}
    variant = next((name for name, size in sizes.items() if size == (widths, blocks)), None)
    if variant is None:
        listed = ", ".join(f"{name} {size[0]} {size[1]}" for name, size in sizes.items())
        raise WeightsError(f"A CvT of {widths} channels and {blocks} blocks is not a known variant: {listed}.")
    return {"backbone": {"name": "cvt", "variant": variant, "gelu": gelu}}


_EMBEDDING = "encoder.stages.{s}.embedding.convolution_embeddings"
_INNER = "attention.attention.convolution_projection"
_NAMES = {  # parts of a block: the names here, the authors' and transformers'
    "norm1": ("norm1", "layernorm_before"),
    **{
        f"attention.{name}.{target}": (f"attn.{source}_{name[0]}{norm}", f"{transformers}")
        for name in ("query", "key", "value")
        for target, source, norm, transformers in (
            ("depthwise", "conv_proj", ".conv", f"{_INNER}_{name}.convolution_projection.convolution"),
            ("norm", "conv_proj", ".bn", f"{_INNER}_{name}.convolution_projection.normalization"),
            ("linear", "proj", "", f"attention.attention.projection_{name}"),
        )
    },
    "attention.output": ("attn.proj", "attention.output.dense"),
    "norm2": ("norm2", "layernorm_after"),
    "mlp.expand": ("mlp.fc1", "intermediate.dense"),
    "mlp.contract": ("mlp.fc2", "output.dense"),
}
_AUTHORS = (
    Line("stage{s}.patch_embed.proj.*", "embeddings.{s}.projection.*"),
    Line("stage{s}.patch_embed.norm.*", "embeddings.{s}.norm.*"),
    Line("stage2.cls_token", "class_token", TOKENS),
    *(
        Line(f"stage{{s}}.blocks.{{b}}.{name}.*", f"stages.{{s}}.{{b}}.{target}.*")
        for target, (name, _) in _NAMES.items()
    ),
)
_BLOCK = "encoder.stages.{s}.layers.{b}"
_TRANSFORMERS = (
    Line(f"{_EMBEDDING}.projection.*", "embeddings.{s}.projection.*"),
    Line(f"{_EMBEDDING}.normalization.*", "embeddings.{s}.norm.*"),
    Line("encoder.stages.2.cls_token", "class_token", TOKENS),
    *(Line(f"{_BLOCK}.{name}.*", f"stages.{{s}}.{{b}}.{target}.*") for target, (_, name) in _NAMES.items()),
)
_MISSING = {"feature_norms.{s}.*": "a norm of the stage's feature map, which a classifier lacks"}
_NORM, _HEAD = "the norm of the class token, before the classification head", "the classification head"
_IMPLIED: dict[str, tuple[list[Any], ...]] = {
    "patch_sizes": ([7, 3, 3],),
    "patch_stride": ([4, 2, 2],),
    "patch_padding": ([2, 1, 1],),
    "mlp_ratio": ([4.0, 4.0, 4.0],),
    "qkv_bias": ([True, True, True],),
    "cls_token": ([False, False, True],),
    "qkv_projection_method": (["dw_bn", "dw_bn", "dw_bn"],),
    "kernel_qkv": ([3, 3, 3],),
    "padding_kv": ([1, 1, 1],),
    "stride_kv": ([2, 2, 2],),
    "padding_q": ([1, 1, 1],),
    "stride_q": ([1, 1, 1],),
}


def _config(sections: Mapping[str, Any], state: StateDict, classes: Sequence[Class]) -> dict[str, dict[str, Any]]:
    widths, heads, blocks, drop_path = VARIANTS[sections["backbone"]["variant"]]
    config = {
        "model_type": "cvt",
        "architectures": ["CvtModel"],
        "embed_dim": [*widths],
        "num_heads": [*heads],
        "depth": [*blocks],
        "drop_path_rate": [0.0, 0.0, drop_path],
        **{name: values[0] for name, values in _IMPLIED.items()},
    }
    return {"config.json": config}


_MODELS = {
    name: PublishedModel("backbone", parameters, {}, f"backbone.name=cvt backbone.variant={options}")
    for name, parameters, options in (
        ("hf:microsoft/cvt-13", 19_612_992, "13"),
        ("hf:microsoft/cvt-21", 31_238_208, "21"),
        ("hf:microsoft/cvt-13-384", 19_612_992, "13"),
        ("hf:microsoft/cvt-21-384", 31_238_208, "21"),
        ("hf:microsoft/cvt-13-384-22k", 19_612_992, "13"),
        ("hf:microsoft/cvt-21-384-22k", 31_238_208, "21"),
        ("hf:microsoft/cvt-w24-384-22k", 276_173_312, "w24"),
    )
}
AUTHORS = CheckpointLayout(
    name="microsoft-cvt",
    signature_keys=(
        "stage{s}.patch_embed.proj.weight",
        "stage{s}.blocks.{b}.attn.conv_proj_k.conv.weight",
        "stage2.cls_token",
    ),
    lines=_AUTHORS,
    describe=partial(_describe, gelu="quick"),
    special=SpecialTensors(no_effect={"norm.*": _NORM, "head.*": _HEAD}, missing=_MISSING),
    options=LayoutOptions(project_defaults=("gelu",)),
    publishing=Publishing(licences=_LICENCES, files={"CvT-*.pth": _LICENCES, "hf:microsoft/cvt-*": _LICENCES}),
)
TRANSFORMERS = CheckpointLayout(
    name="transformers-cvt",
    signature_keys=(
        f"{_EMBEDDING}.projection.weight",
        f"{_BLOCK}.{_INNER}_key.convolution_projection.convolution.weight",
        "encoder.stages.2.cls_token",
    ),
    lines=_TRANSFORMERS,
    describe=partial(_describe, gelu="erf"),
    other_keys=OtherKeys(prefixes=("cvt.",)),
    special=SpecialTensors(no_effect={"layernorm.*": _NORM, "classifier.*": _HEAD}, missing=_MISSING),
    options=LayoutOptions(
        project_defaults=("gelu",),
        implied=_IMPLIED | {"num_heads": tuple([*variant.heads] for variant in VARIANTS.values())},
    ),
    publishing=Publishing(
        licences=_LICENCES, files={"hf:microsoft/cvt-*": _LICENCES}, models=_MODELS, config_files=_config
    ),
)
