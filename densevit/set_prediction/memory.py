"""The encoder's memory: a feature map as one sequence of tokens with positions."""

from typing import NamedTuple

import torch
from torch import Tensor


class Memory(NamedTuple):
    """The encoder's output, one token per cell of the feature map, S = H * W (Carion et al. 2020, section 3.2).

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
