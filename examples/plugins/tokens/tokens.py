"""A backbone that lets heads run its last blocks, and a head that does: a token for each class."""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import densevit
from densevit.interfaces import IGNORE, BackboneOutput, LastBlocks


class Block(nn.Module):
    """Self-attention of one head, with a bias for the scores."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x: (B, N, C). bias: (B, 1, N, N)."""
        query, key, value = self.qkv(self.norm(x))[:, None].chunk(3, dim=-1)
        return x + F.scaled_dot_product_attention(query, key, value, bias)[:, 0]


class TinyTokens(densevit.Backbone):
    """Patches of 16 pixels and blocks of attention among them."""

    channels, strides = (32,), (16,)
    max_last_blocks = 2

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 16, stride=16)
        self.blocks = nn.ModuleList(Block(32) for _ in range(depth))
        self.norm = nn.LayerNorm(32)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, H, W). Returns one feature (B, 32, ceil(H / 16), ceil(W / 16))."""
        return self.encode(images, (), True).features

    def encode(self, images: Tensor, counts: Collection[int], features: bool) -> BackboneOutput:
        """The features, and the last blocks for heads, see `densevit.interfaces.TokenBackbone`."""
        cells = self.patches(F.pad(images, (0, -images.shape[3] % 16, 0, -images.shape[2] % 16)))
        grid = (cells.shape[2], cells.shape[3])
        x, last = cells.flatten(2).transpose(1, 2), {}
        for i, block in enumerate(self.blocks):
            remaining = len(self.blocks) - i
            if remaining in counts:
                last[remaining] = LastBlocks(x, grid, list(self.blocks[i:]), self.norm)
            if not features and len(last) == len(counts):
                return BackboneOutput([], last)
            x = block(x)
        if 0 in counts:
            last[0] = LastBlocks(x, grid, [], self.norm, [self.norm(x)])
        return BackboneOutput([self.norm(x).transpose(1, 2).unflatten(2, grid)], last)


class ClassTokens(densevit.DenseHead):
    """Semantic segmentation by a token for each class in the last block."""

    task, required_targets, last_blocks = "segmentation", ("semantic",), 1

    def __init__(self, channels, strides, classes):
        super().__init__(channels, strides, classes)
        self.stride, self.progress = strides[-1], 0.0
        self.tokens = nn.Parameter(torch.randn(len(classes), channels[-1]))

    def set_progress(self, progress):
        self.progress = progress

    def forward(self, features, padding_mask, targets=None):
        x = torch.cat([self.tokens.expand(features.tokens.shape[0], -1, -1), features.tokens], dim=1)
        for block in features.blocks:
            x = block(x, None)
        x = features.norm(x)
        tokens, cells = x[:, : len(self.classes)], x[:, x.shape[1] - features.grid[0] * features.grid[1] :]
        return {"logits": (tokens @ cells.transpose(1, 2)).unflatten(2, features.grid)}  # (B, K, h, w)

    def loss(self, outputs, targets, context):
        logits = F.interpolate(outputs["logits"].float(), scale_factor=self.stride, mode="bilinear")
        total, images = logits.sum() * 0, 0
        for x, target in zip(logits, targets, strict=True):
            if "semantic" in target and (target["semantic"] != IGNORE).any():
                (h, w), truth = target["size"], target["semantic"].long()
                loss = F.cross_entropy(x[None, :, :h, :w], truth[None], ignore_index=IGNORE, reduction="sum")
                total, images = total + loss / (h * w), images + 1
        return {"classes": total / max(1, images)}

    def predict(self, outputs, targets):
        result = []
        for x, target in zip(outputs["logits"].float(), targets, strict=True):
            (h, w), (height, width) = (tuple(map(int, target[key])) for key in ("size", "original_size"))
            maps = self.maps({"logits": x[None]}, (h, w))
            maps = F.interpolate(maps, size=(height, width), mode="bilinear")
            result.append({key: value[0] for key, value in self.read_maps(maps).items()})
        return result

    def maps(self, outputs, size):
        maps = F.interpolate(outputs["logits"].float(), scale_factor=self.stride, mode="bilinear")
        return maps[..., : size[0], : size[1]]

    def read_maps(self, maps):
        return {"semantic": maps.argmax(1).to(torch.uint8)}
