"""Vision Transformer (Dosovitskiy et al. 2021) and later extensions: one grid of tokens and identical blocks."""

import itertools
from collections.abc import Collection
from functools import partial
from typing import Literal, cast

from torch import Tensor, nn

from densevit.interfaces import BackboneOutput, LastBlocks
from densevit.layers.checkpointing import run
from densevit.layers.positions import Resizing
from densevit_backbones.linear_weights import truncated_normal
from densevit_backbones.vit.blocks import EPS, Attention, Block, Gelu, ProjectReadout, create_mlp
from densevit_backbones.vit.combinations import check_combination
from densevit_backbones.vit.positions import POSITIONS, PositionType
from densevit_backbones.vit.stems import StemType, WeightStandardization, create_stem
from densevit_backbones.vit.tokens import TokenEmbedding
from densevit_backbones.vit.variants import VARIANTS
from densevit_backbones.vit.windows import Windows, check_blocks, check_positive, check_range


class ViT(TokenEmbedding):
    """Plain vision transformer: features of one stride, after some of its blocks.

    Any input size: an image is padded with zeros at the right and the bottom to a multiple of the stride, and each map
    is ceil(size / stride). Attention is global and not masked: if an image is padded further, as in a batch with a
    larger image, all its features change from the first block on, and learned and sine positions are resized to the
    larger grid. Only tokens before positions and attention are unchanged: with stem "patch" all tokens of the image,
    and with windowed blocks (and positions "none") also the tokens in windows inside the image, up to the first global
    block. Padding up to the next multiple of the stride changes nothing.

    Combinations of options that no published model has are refused; `densevit_backbones.vit.combinations` lists them.

    variant: "tiny", "small" and "base" of DeiT (Touvron et al. 2021, table 1), "base", "large" and "huge" of ViT
        (table 1), "giant" of DINOv2 (Oquab et al. 2024: ViT-g/14 with `patch_size` 14, `swiglu` and `layer_scale`
        1e-5); "nano" (128 channels, 6 blocks) is for CPUs.
    patch_size: the side of a patch in pixels; also the stride of the features.
    stem: "patch"; "conv": pairs of 3x3 convolutions with batch norm and a 1x1, with which a transformer converges
        faster from random weights (Xiao et al. 2021, section 4), for `patch_size` 8, 16 or 32; "resnet": the first
        three stages of a ResNet-50 (ViT's hybrid, R50 + ViT-B/16), for `patch_size` 16, whose first two stages are then
        the first two features, of strides 4 and 8 and 256 and 512 channels (DPT-Hybrid).
    weight_standardization: the formula for each filter w of stem "resnet". "variance": (w - mean) / sqrt(variance +
        1e-8), as in timm since 0.4.12 and in transformers; "std": (w - mean) / (std + 1e-5), as Google's hybrid and
        isl-org's DPT-Hybrid (timm 0.4.5) were trained.
    positions: "learned"; "sine1d", in row-major order, or "sine2d", as in MAE; these three are for the grid of a square
        image and resized to other grids (see `resize_grid`). "rotary": rotates queries and keys in each block, as in
        DINOv3, for any size. "relative": each block adds a learned bias per offset of two cells, as in BEiT, for the
        grid of that image, or of a window, and resized as well. "none".
    image_size: the side in pixels of the image of the position tables.
    position_resizing: interpolation of positions: "antialiased" (bicubic, timm), "bicubic", "bicubic_offset" (DINOv2
        without registers) or "bilinear" (DPT).
    class_token, distillation_token (DeiT), registers (the number; Darcet et al. 2024): tokens before the cells, in
        this order, without positions: the position that published weights add to a token is part of the token here.
    readout: use of the class token in the maps (DPT, Ranftl et al. 2021, section 3.1). "ignore": none; "add": added to
        each cell; "project": concatenated to each cell, then a linear layer and a GELU per feature.
    layer_scale: initial value of layer scale, 1e-5 in DINOv2; None: no layer scale.
    qk_norm: layer norms on the queries and keys of each head.
    swiglu: gated MLPs.
    gelu: the GELU of the other MLPs. "erf": exact; "tanh": the approximation with which Google's models were trained.
    drop_path: stochastic depth of the last block, linear from 0 at the first; None: the paper's for ImageNet (DeiT's
        0.1 up to "base").
    windows: windowed attention in most blocks (ViTDet); None: all blocks are global.
    features: the numbers, from 1, of the blocks whose outputs are the features; None: the last blocks of the four
        quarters, with stem "resnet" of the last two quarters. Blocks after the last feature are not built.
    feature_norm: applies the model's final norm to features, before readout. False: raw features (DPT, SETR).
    key_bias: whether keys have a bias; false in DINOv3. With rotary positions the bias changes the attention.
    norm_eps: epsilon of the layer norms, 1e-5 in DINOv3.
    feature_norm_eps: epsilon of the norm of the features, 1e-5 in Depth Anything 3; None: `norm_eps`.
    fixed_size: takes images of `image_size` x `image_size` only, to which smaller images are padded, as in published
        EoMT.
    gradient_checkpointing: activation checkpointing per block in training.
    in_channels: the number of channels of images.
    """

    def __init__(
        self,
        variant: Literal["nano", "tiny", "small", "base", "large", "huge", "giant"] = "base",
        patch_size: Literal[8, 12, 14, 16, 32] = 16,
        stem: StemType = "patch",
        weight_standardization: WeightStandardization = "variance",
        positions: PositionType = "learned",
        image_size: int = 224,
        position_resizing: Resizing = "antialiased",
        class_token: bool = True,
        distillation_token: bool = False,
        registers: int = 0,
        readout: Literal["ignore", "add", "project"] = "ignore",
        layer_scale: float | None = None,
        qk_norm: bool = False,
        swiglu: bool = False,
        gelu: Gelu = "erf",
        drop_path: float | None = None,
        windows: Windows | None = None,
        features: tuple[int, ...] | None = None,
        feature_norm: bool = True,
        key_bias: bool = True,
        norm_eps: float = EPS,
        feature_norm_eps: float | None = None,
        fixed_size: bool = False,
        gradient_checkpointing: bool = False,
        in_channels: int = 3,
    ) -> None:
        check_combination(
            stem=stem,
            patch_size=patch_size,
            weight_standardization=weight_standardization,
            class_token=class_token,
            distillation_token=distillation_token,
            registers=registers,
            positions=positions,
            readout=readout,
            windows=windows,
            qk_norm=qk_norm,
            swiglu=swiglu,
            layer_scale=layer_scale,
            gelu=gelu,
            key_bias=key_bias,
        )
        check_range("registers", registers, 0, 1000)
        check_range("image_size", image_size, 1, 65536)
        check_positive("layer_scale", layer_scale)
        check_positive("norm_eps", norm_eps)
        check_positive("feature_norm_eps", feature_norm_eps)
        width, depth, heads, default_drop_path = VARIANTS[variant]
        encoding = POSITIONS[positions](-(-image_size // patch_size), position_resizing)
        super().__init__(width, class_token, distillation_token, registers, encoding)

        quarters = tuple(-(-depth * i // 4) for i in (1, 2, 3, 4))
        if features is None:
            features = quarters[2:] if stem == "resnet" else quarters
        check_blocks("features", features, depth)
        self.feature_blocks = tuple(features)
        self.stem = create_stem(stem, width, patch_size, weight_standardization, in_channels)
        self.channels = (*self.stem.channels, *(width for _ in features))
        self.strides = (*self.stem.strides, *(patch_size for _ in features))
        self.input_size = (image_size, image_size) if fixed_size else None
        self.stride, self.positions, self.readout = patch_size, positions, readout
        self.window = None if windows is None else windows.size
        self.head_channels, self.gradient_checkpointing = width // heads, gradient_checkpointing
        has_tokens, built = bool(self.tokens()), features[-1]
        sides = [None] * built if windows is None else windows.sides(quarters, depth, built, has_tokens)
        last_rate = default_drop_path if drop_path is None else drop_path
        self.blocks = nn.ModuleList(
            Block(
                width,
                side,
                encoding.bias(side, heads, has_tokens),
                Attention(width, heads, qk_norm, key_bias),
                create_mlp(width, swiglu, gelu),
                layer_scale,
                last_rate * i / (depth - 1),
                norm_eps,
            )
            for i, side in enumerate(sides)
        )
        self.norm = nn.LayerNorm(width, feature_norm_eps or norm_eps) if feature_norm else None
        self.readouts = nn.ModuleList(ProjectReadout(width) for _ in features if readout == "project")
        self._initialise()

    def _initialise(self) -> None:
        for module in [*self.blocks.modules(), *self.readouts.modules()]:
            truncated_normal(module)
        for parameter in self.token_parameters():
            nn.init.trunc_normal_(parameter, std=0.02)

    @property
    def max_last_blocks(self) -> int:
        """The number of blocks with global attention at the end, which take tokens of a head; see `TokenBackbone`.

        Relative positions need rows for tokens: without class token and registers they have none.
        """
        if self.positions == "relative" and not self.tokens():
            return 0
        blocks = [cast(Block, block) for block in self.blocks]
        return sum(1 for _ in itertools.takewhile(lambda block: block.window is None, reversed(blocks)))

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.encode(images, (), True).features

    def encode(self, images: Tensor, counts: Collection[int], features: bool) -> BackboneOutput:
        """The features and the last blocks for heads (`TokenBackbone`).

        All blocks apply activation checkpointing.
        """
        maps, cells = self.stem(images)
        height, width = cells.shape[1:3]
        grid, depth = (height, width), len(self.blocks)
        x, first = self.embed(cells)
        rotation_of_all, rotation_of_window = self._rotations(grid, first, x)
        last: dict[int | None, LastBlocks] = {}
        norm, outputs = nn.Identity() if self.norm is None else self.norm, list[Tensor]()
        for i, block in enumerate(self.blocks):
            if depth - i in counts:
                blocks = [partial(self._block_of_head, self.blocks[j], grid) for j in range(i, depth)]
                last[depth - i] = LastBlocks(x, grid, blocks, norm)
                if not features and len(last) == len(counts):
                    return BackboneOutput([], last)
            rotation = rotation_of_all if cast(Block, block).window is None else rotation_of_window
            x = run(block, x, grid, rotation, checkpointed=self.gradient_checkpointing and self.training)
            if i + 1 in self.feature_blocks and (features or 0 in counts):
                outputs.append(norm(x))
                maps += [self._feature(outputs[-1], first, grid, i + 1)] if features else []
        if 0 in counts:
            last[0] = LastBlocks(x, grid, (), norm, outputs)
        return BackboneOutput(maps, last)

    def _block_of_head(self, block: nn.Module, grid: tuple[int, int], x: Tensor, bias: Tensor | None) -> Tensor:
        """Runs a block with global attention on a head's tokens, which are not rotated, and the backbone's tokens."""
        rotation, _ = self._rotations(grid, x.shape[1] - grid[0] * grid[1], x)
        return run(block, x, grid, rotation, bias, checkpointed=self.gradient_checkpointing and self.training)

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        *stem, last_of_stem = self.stem.parameter_depths()
        last = [] if self.norm is None else list(self.norm.parameters())
        last += self.readouts.parameters()
        blocks = [list(block.parameters()) for block in self.blocks]
        return [*stem, [*last_of_stem, *self.token_parameters()], *blocks, *([last] if last else [])]

    def _rotations(self, grid: tuple[int, int], first: int, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Rotary tables of all tokens and of the cells of a window; None if there is none."""
        rotation = partial(self.position_encoding.rotation, grid, self.head_channels, x)
        return rotation(None, first), None if self.window is None else rotation(self.window)

    def _feature(self, x: Tensor, first: int, grid: tuple[int, int], block: int) -> Tensor:
        """All tokens after a block, normalised -> (B, C, H, W)."""
        cells = x[:, first:]
        if self.readout == "add":
            cells = cells + x[:, :1]
        elif self.readout == "project":
            cells = self.readouts[self.feature_blocks.index(block)](cells, x[:, :1])
        return cells.transpose(1, 2).unflatten(2, grid)
