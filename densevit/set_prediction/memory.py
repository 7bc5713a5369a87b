"""The encoder's memory: a feature map as one sequence of tokens with positions."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from densevit.layers.positions import LearnedPositions, mask_on_grid, sine_map


class Memory(NamedTuple):
    """The encoder's output, one token per cell of the feature map (S = H * W).

    tokens, with_pos (positions added): (B, S, C). padding: (B, S) bool. attention_bias: (B, 1, 1, S), -inf at padding,
    added to attention scores.
    centres: (B, S, 2), xy of the cell centres, relative to the unpadded image size. cell: (B, 2), width and height of
    a cell in the same unit. size: (H, W) of the map.
    """

    tokens: Tensor
    with_pos: Tensor
    padding: Tensor
    attention_bias: Tensor
    centres: Tensor
    cell: Tensor
    size: tuple[int, int]


def cell_centres(padding_mask: Tensor, size: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
    """Returns `centres` and `cell` of `Memory` for images of different sizes.

    padding_mask: (B, H, W) of the batch. The unpadded size of an image is taken from its first row and column.
    """
    inside = ~padding_mask
    extent = torch.stack([inside[:, 0].sum(1), inside[:, :, 0].sum(1)], dim=-1)  # (B, 2), width and height
    cell = stride / extent.float()
    rows = torch.arange(size[0], device=padding_mask.device) + 0.5
    columns = torch.arange(size[1], device=padding_mask.device) + 0.5
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).flatten(0, 1)  # (S, 2)
    return grid * cell[:, None], cell


def encode(
    x: Tensor,
    padding_mask: Tensor,
    stride: int,
    layers: Iterable[nn.Module],
    norm: nn.Module,
    learned_positions: LearnedPositions | None = None,
) -> Memory:
    """DETR's encoder (Carion et al. 2020, A.3).

    x: (B, C, H, W), the projected features of this stride. padding_mask: (B, H', W') of the batch, True = padding.
    layers: `EncoderLayer`s, or none. learned_positions: replace sine positions, which are counted over the image
    without padding.
    """
    size = (x.shape[-2], x.shape[-1])
    padding = mask_on_grid(padding_mask, size)
    encoding = sine_map(padding, x.shape[1]) if learned_positions is None else learned_positions(padding)
    positions = encoding.flatten(1, 2).to(x.dtype)  # (B, S, C)
    padding = padding.flatten(1)
    attention_bias = torch.zeros_like(padding, dtype=x.dtype).masked_fill(padding, float("-inf"))[:, None, None]
    x = x.flatten(2).transpose(1, 2)  # (B, S, C)
    for layer in layers:
        x = layer(x, positions, attention_bias)
    x = norm(x)
    centres, cell = cell_centres(padding_mask, size, stride)
    return Memory(x, x + positions, padding, attention_bias, centres, cell, size)
