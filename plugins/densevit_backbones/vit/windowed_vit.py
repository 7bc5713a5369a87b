"""The vision transformers of LW-DETR (Chen et al. 2024) and RF-DETR (Robinson et al. 2025), in windows of the image."""

from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.layers.checkpointing import run
from densevit_backbones.vit.backbone import ViT
from densevit_backbones.vit.windows import check_positive


class WindowedViT(ViT):
    """A plain vision transformer whose tokens are sorted by windows, with some global blocks (LW-DETR, RF-DETR).

    The map is divided into `num_windows` x `num_windows` windows, which grow with the image. Each window has its own
    copies of class and register tokens; a global block attends to all of them. Any input size: an image is padded with
    zeros at the right and the bottom to a multiple of patch_size * num_windows, and each map is ceil(size / patch
    size). Attention is not masked: if an image is padded further, its features change.

    variant: RF-DETR's are DINOv2 with windows, whose weights fit: "small", "base" and "large", with layer norms on the
        features; "nano" (128 channels, 6 blocks) is for CPUs. LW-DETR's are "lw_tiny", "lw_small", "lw_medium" (also of
        its large model) and "lw_xlarge": 12 heads, keys without bias, no class token, features without a norm.
    patch_size: the side of a patch in pixels; also the stride of the features.
    image_size: the side in pixels of the image of the position table, which is resized for other images: bicubic,
        antialiased in RF-DETR.
    num_windows: windows in a row and in a column; 4 in LW-DETR and RF-DETR base.
    registers: the number of register tokens of a window (Darcet et al. 2024); 0 in all published models.
    features: the numbers, from 1, of the blocks whose outputs are the features; None: 3, 6, 9 and 12 as in RF-DETR (2,
        5, 8 and 11 in its base model), or LW-DETR's for its variants. RF-DETR's global blocks are the blocks after
        features, such as 4, 7 and 10; blocks after the last feature are not built.
    drop_path: stochastic depth of the last block, linear from 0 at the first.
    gradient_checkpointing: activation checkpointing per block in training.
    in_channels: the number of channels of images.
    """

    def __init__(
        self,
        variant: Literal["nano", "small", "base", "large", "lw_tiny", "lw_small", "lw_medium", "lw_xlarge"] = "small",
        patch_size: Literal[12, 14, 16] = 16,
        image_size: int = 512,
        num_windows: int = 2,
        registers: int = 0,
        features: tuple[int, ...] | None = None,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
        in_channels: int = 3,
    ) -> None:
        check_positive("num_windows", num_windows)
        lw_detr = variant.startswith("lw_")
        if lw_detr and registers:
            raise ValueError(f"registers is {registers}; with variant {variant!r} it must be 0.")
        if lw_detr and features is None:
            features = (2, 4, 6) if variant == "lw_tiny" else (3, 5, 6, 10)
        super().__init__(
            cast(Any, variant),
            patch_size,
            image_size=image_size,
            position_resizing="bicubic" if lw_detr else "antialiased",
            class_token=not lw_detr,
            registers=registers,
            layer_scale=0.1 if lw_detr else 1.0,
            drop_path=drop_path,
            features=features,
            feature_norm=not lw_detr,
            key_bias=not lw_detr,
            gradient_checkpointing=gradient_checkpointing,
            in_channels=in_channels,
        )
        self.num_windows, self.size_divisor = num_windows, patch_size * num_windows
        self.global_blocks = {number + 1 for number in self.feature_blocks}
        if lw_detr:
            self.global_blocks = {2, 4, 6} if variant == "lw_tiny" else {3, 5, 6, 9}

    @property
    def max_last_blocks(self) -> int:
        """0: blocks take no tokens of a head, because tokens are sorted by windows."""
        return 0

    def forward(self, images: Tensor) -> list[Tensor]:
        side, size = self.stride * self.num_windows, [-(-length // self.stride) for length in images.shape[2:]]
        _, cells = self.stem(F.pad(images, (0, -images.shape[3] % side, 0, -images.shape[2] % side)))
        B, H, W, C = cells.shape
        tokens, first = self.embed(cells)
        x = self._in_windows(tokens, first, (H, W))  # (B * windows, P + h * w, C)
        features = []
        for number, block in enumerate(self.blocks, 1):
            joined = x.reshape(B, -1, C) if number in self.global_blocks else x
            x = run(block, joined, (H, W), checkpointed=self.gradient_checkpointing and self.training).reshape(x.shape)
            if number in self.feature_blocks:
                cells = x[:, first:] if self.norm is None else self.norm(x[:, first:])
                features.append(self._unpartitioned(cells, (H, W))[..., : size[0], : size[1]])
        return features

    def _in_windows(self, x: Tensor, first: int, grid: tuple[int, int]) -> Tensor:
        """(B, P + H * W, C) -> (B * windows, P + h * w, C): P tokens, repeated for each window, then its cells."""
        n, (H, W), (B, _, C) = self.num_windows, grid, x.shape
        cells = x[:, first:].reshape(B, n, H // n, n, W // n, C).transpose(2, 3).reshape(B * n * n, -1, C)
        return torch.cat([x[:, :first].repeat_interleave(n * n, 0), cells], dim=1) if first else cells

    def _unpartitioned(self, cells: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B * windows, h * w, C) -> (B, C, H, W)."""
        n, (H, W) = self.num_windows, grid
        cells = cells.reshape(-1, n, n, H // n, W // n, cells.shape[2]).permute(0, 5, 1, 3, 2, 4)
        return cells.reshape(-1, cells.shape[1], H, W)
