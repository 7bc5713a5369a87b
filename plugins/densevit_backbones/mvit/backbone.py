"""MViT (Fan et al. 2021) and MViTv2 (Li et al. 2022): vision transformers that pool their map in each stage."""

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Backbone
from densevit.layers.checkpointing import run
from densevit.layers.drop_path import DropPath
from densevit.layers.mlp import FeedForward
from densevit.layers.stem import conv_stem
from densevit_backbones.linear_weights import truncated_normal
from densevit_backbones.mvit.attention import PoolingAttention, Size, pooled
from densevit_backbones.mvit.variants import VARIANTS

_KEY_STRIDES = (4, 2, 1, 1)  # of keys and values, relative to the input map of a block, by stage


class MViT(Backbone):
    """MViT: features of strides 4, 8, 16 and 32, each with its own layer norm, as in MViTv2's detectors.

    Any input size, without padding: each map is ceil(size / stride), and so are pooled keys and values. Attention is
    global from the first block on, so padding of the image at the right and bottom changes all features.

    variant: "tiny", "small", "base" and "large" of the MViTv2 paper; version 1 has only two of its paper's models, B-16
        as "base" and B-24-wide as "large". "nano" (32 channels, 6 blocks) is for CPUs. In version 1 and in "large" the
        last block of a stage doubles the width, as in the published weights: a feature is as wide as the next stage.
    version: 2 has relative positions and residual pooled queries; 1 has absolute positions.
    stem: "patch", the paper's 7x7 convolution of stride 4, or "conv": four 3x3 convolutions with batch norm and a 1x1,
        with which a transformer converges faster from random weights (Xiao et al. 2021, section 4).
    image_size: side in pixels of the images of the position tables, which are interpolated for other sizes.
    class_token: a class token before the map, in attention only. None: in version 1 only, as in the papers' models for
        ImageNet-1K.
    class_token_residual: residual pooling of the class token too, as in timm, instead of the map only, as in the
        authors' code. For version 2 with a class token.
    window_size: attention in windows of so many cells of the first stage, half as many in each later one, but global in
        the last block of the other stages ("hybrid window attention", Li et al. 2022, section 4.2; 56 in their
        detectors). A multiple of 8. None: global attention.
    coarse_global_keys: doubles the stride of keys and values in the last blocks of the second and the third stage, as
        in the authors' detectors in detectron2.
    drop_path: stochastic depth of the last block, linear from 0 at the first; None: the paper's for ImageNet.
    gradient_checkpointing: activation checkpointing per block.
    in_channels: the number of channels of images.
    """

    def __init__(
        self,
        variant: Literal["nano", "tiny", "small", "base", "large"] = "tiny",
        version: Literal[1, 2] = 2,
        stem: Literal["patch", "conv"] = "patch",
        image_size: int = 224,
        class_token: bool | None = None,
        class_token_residual: bool = True,
        window_size: int | None = None,
        coarse_global_keys: bool = False,
        drop_path: float | None = None,
        gradient_checkpointing: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS[version]:
            variants = ", ".join(VARIANTS[version])
            raise ValueError(f"variant {variant!r} does not exist in MViT's version {version}, which has {variants}.")
        if not 1 <= image_size <= 65536:
            raise ValueError(f"image_size is {image_size}; it is a number of pixels from 1 to 65536.")
        if window_size is not None and (window_size < 8 or window_size % 8):
            raise ValueError(f"window_size is {window_size}; it must be a multiple of 8, which four stages halve.")
        width, blocks, heads, default_drop, widens = VARIANTS[version][variant]
        last_rate = default_drop if drop_path is None else drop_path
        self.gradient_checkpointing = gradient_checkpointing
        self.strides = (4, 8, 16, 32)
        self.patch_embed = (
            nn.Conv2d(in_channels, width, 7, stride=4, padding=3)
            if stem == "patch"
            else conv_stem(width, 4, in_channels)
        )
        size = pooled((image_size, image_size), 4)
        has_token = version == 1 if class_token is None else class_token
        if has_token and window_size is not None:
            raise ValueError("window_size needs a model without class token. Fix: set class_token to false.")
        if not class_token_residual and (version == 1 or not has_token):
            raise ValueError("class_token_residual: false needs a class token and version: 2. Fix: remove the option.")
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if has_token else None
        self.positions = Positions(size, width, has_token) if version == 1 else None
        self.stages = nn.ModuleList()
        channels, widths = width, []
        for i, count in enumerate(blocks):
            stage = nn.ModuleList()
            for j in range(count):
                attention_width, stride = width * 2**i, 2 if i and not j else 1
                last = j == count - 1
                last_widens = widens == "mlp" and last and i < 3
                window = None if window_size is None or (last and i) else window_size // 2 ** (i - (i > 0 and not j))
                block = MultiscaleBlock(
                    channels,
                    attention_width,
                    attention_width * 2 if last_widens else attention_width,
                    num_heads=heads * 2**i,
                    query_stride=stride if version == 2 or stride > 1 else None,
                    key_stride=_KEY_STRIDES[i] * (2 if coarse_global_keys and last and i in (1, 2) else 1),
                    map_size=size if version == 2 else None,
                    residual=None if version == 1 else "all" if class_token_residual else "map",
                    window=window,
                    drop_path=last_rate * (sum(blocks[:i]) + j) / (sum(blocks) - 1),
                )
                stage.append(block)
                channels, size = block.channels, pooled(size, stride)
            self.stages.append(stage)
            widths.append(channels)
        self.channels = tuple(widths)
        self.feature_norms = nn.ModuleList(nn.LayerNorm(channels, eps=1e-6) for channels in self.channels)
        self.apply(truncated_normal)
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=0.02)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patch_embed(images.contiguous(memory_format=torch.channels_last))
        B, _, H, W = x.shape
        x = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H*W, C)
        if self.class_token is not None:
            x = torch.cat([self.class_token.to(x.dtype).expand(B, -1, -1), x], 1)  # (B, 1 + H*W, C)
        if self.positions is not None:
            x = x + self.positions(H, W).to(x.dtype)
        features = []
        for stage, norm in zip(self._blocks(), self.feature_norms, strict=True):
            for block in stage:
                x, (H, W) = run(block, x, (H, W), checkpointed=self.gradient_checkpointing and self.training)
            cells = norm(x[:, -H * W :])
            features.append(cells.unflatten(1, (H, W)).permute(0, 3, 1, 2))
        return features

    def _blocks(self) -> list[list["MultiscaleBlock"]]:
        return cast(list[list[MultiscaleBlock]], self.stages)

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        tokens = [] if self.class_token is None else [self.class_token]
        positions = [] if self.positions is None else self.positions.parameters()
        blocks = [list(block.parameters()) for stage in self._blocks() for block in stage]
        return [[*self.patch_embed.parameters(), *tokens, *positions], *blocks, list(self.feature_norms.parameters())]


class Positions(nn.Module):
    """Learned position embeddings of the cells of a map and of the class token; resized bilinearly for other maps."""

    def __init__(self, size: Size, channels: int, class_token: bool) -> None:
        super().__init__()
        self.cells = nn.Parameter(torch.zeros(1, channels, *size))
        self.token = nn.Parameter(torch.zeros(1, 1, channels)) if class_token else None
        nn.init.trunc_normal_(self.cells, std=0.02)
        if self.token is not None:
            nn.init.trunc_normal_(self.token, std=0.02)

    def forward(self, height: int, width: int) -> Tensor:
        """(1, T + height * width, C)."""
        cells = _resized(self.cells, (height, width)).flatten(2).transpose(1, 2)
        return cells if self.token is None else torch.cat([self.token, cells], 1)

    def carried_over(self, name: str, tensor: Tensor) -> tuple[Tensor, str] | None:
        """Resizes positions of another map; see `densevit.weights.state_dict_loading.fit`."""
        size = self.cells.shape[2:]
        return (_resized(tensor, (size[0], size[1])), "interpolated") if name == "cells" else None


def _resized(cells: Tensor, size: Size) -> Tensor:
    return cells if cells.shape[2:] == size else F.interpolate(cells, size=size, mode="bilinear")


class MultiscaleBlock(nn.Module):
    """Pooling attention, then an MLP, each with its residual (Fan et al. 2021, section 3.2; Li et al. 2022, 4.1).

    channels, attention_width, out: channels of the input, of attention, and of the output. If attention or the MLP
    widens, its residual is a projection of the normalised input; if attention pools, its residual is max-pooled.
    """

    def __init__(
        self,
        channels: int,
        attention_width: int,
        out: int,
        num_heads: int,
        query_stride: int | None,
        key_stride: int,
        map_size: Size | None,
        residual: Literal["all", "map"] | None,
        window: int | None,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.channels, self.stride = out, query_stride or 1
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attention = PoolingAttention(
            channels, attention_width, num_heads, query_stride, key_stride, map_size, residual, window
        )
        self.shortcut1 = nn.Linear(channels, attention_width) if channels != attention_width else None
        self.norm2 = nn.LayerNorm(attention_width, eps=1e-6)
        self.mlp = FeedForward(attention_width, 4 * attention_width)
        self.shortcut2 = None
        if attention_width != out:  # the MLP widens
            self.mlp.contract = nn.Linear(4 * attention_width, out)
            self.shortcut2 = nn.Linear(attention_width, out)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size]:
        """x: (B, T + H*W, C), T class tokens before the map of (H, W) = size. Returns the output and its (h, w)."""
        normed = self.norm1(x)
        attended, out_size = self.attention(normed, size)
        shortcut = x if self.shortcut1 is None else self.shortcut1(normed)
        x = self._pool(shortcut, size) + self.drop_path(attended)
        normed = self.norm2(x)
        shortcut = x if self.shortcut2 is None else self.shortcut2(normed)
        return shortcut + self.drop_path(self.mlp(normed)), out_size

    def _pool(self, x: Tensor, size: Size) -> Tensor:
        if self.stride == 1:
            return x
        tokens = x.shape[1] - size[0] * size[1]
        cells = x[:, tokens:].unflatten(1, size).permute(0, 3, 1, 2)
        cells = F.max_pool2d(cells, 3, self.stride, padding=1).permute(0, 2, 3, 1).flatten(1, 2)
        return torch.cat([x[:, :tokens], cells], 1) if tokens else cells
