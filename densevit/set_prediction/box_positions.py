"""Positions of box queries: their embedding, and the position bias of cross-attention."""

import math

import torch
from torch import Tensor, nn

from densevit.layers.mlp import Mlp
from densevit.layers.positions import sine_boxes
from densevit.set_prediction.memory import Memory


class BoxPositions(nn.Module):
    """Embeds a box as the position of its query (DAB-DETR, Liu et al. 2022, section 4.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = width // 2
        self.mlp = Mlp(2 * width, width, width, 2)

    def forward(self, boxes: Tensor) -> Tensor:
        """boxes: (B, Q, 4) cxcywh. Returns (B, Q, C)."""
        return self.mlp(sine_boxes(boxes, self.channels).to(self.mlp.last.weight.dtype))


class BoxPositionBias(nn.Module):
    """Bias of the cross-attention scores, from the position of a cell relative to a query's box.

    The sum of a Gaussian prior at a learned point of the box in each head (SMCA, Gao et al. 2021, section 3.2), and of
    a box-relative position bias learned from the offsets of the cell to the box's edges on a log scale (Plain DETR, Lin
    et al. 2023, section 4). Both are sums of a column term and a row term.
    """

    def __init__(self, num_heads: int, hidden: int = 64) -> None:
        super().__init__()
        angle = torch.arange(num_heads) * (2 * math.pi / num_heads)
        self.points = nn.Parameter(0.7 * torch.stack([angle.cos(), angle.sin()]))  # (2, heads), in half boxes
        self.spreads = nn.Parameter(torch.full((2, num_heads), 0.6))  # standard deviations, in half boxes
        self.columns = Mlp(2, hidden, num_heads, 2)
        self.rows = Mlp(2, hidden, num_heads, 2)
        for mlp in (self.columns, self.rows):  # the learned part starts at zero
            nn.init.zeros_(mlp.last.weight)
            nn.init.zeros_(mlp.last.bias)

    def forward(self, boxes: Tensor, memory: Memory) -> Tensor:
        """boxes: (B, Q, 4) cxcywh. Returns (B, heads, Q, S)."""
        H, W = memory.size
        longest = torch.sym_max(H, W)  # symbols while a file is traced
        position = torch.arange(longest, device=boxes.device)[:, None] + 0.5  # (N, 1), in cells, as what follows
        boxes = boxes / memory.cell.repeat(1, 2)[:, None]
        centre, half = boxes[..., :2, None], boxes[..., 2:, None] / 2  # (B, Q, 2, 1), columns and rows
        point = centre + half * self.points  # (B, Q, 2, heads)
        spread = 0.5 + half * self.spreads.abs()
        gaussian = -0.5 * ((position - point[..., None, :]) / spread[..., None, :]) ** 2  # (B, Q, 2, N, heads)
        edges = torch.cat([centre - half, centre + half], dim=-1)  # (B, Q, 2, 2)
        offset = position - edges[..., None, :]
        offset = (offset.sign() * (offset.abs() + 1).log2() / 3).to(self.rows.last.weight.dtype)
        learned = torch.stack([self.columns(offset[:, :, 0]), self.rows(offset[:, :, 1])], dim=2)
        # The layout of the scores, before the larger map of both axes.
        columns, rows = (gaussian + learned).permute(2, 0, 4, 1, 3).contiguous()  # (B, heads, Q, N) each
        return (rows[..., :H, None] + columns[..., None, :W]).flatten(3)
