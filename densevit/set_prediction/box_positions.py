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

    The sum of a Gaussian prior centred on the box, at another point of it in each head (SMCA, Gao et al. 2021, section
    3.2), and of a box-relative position bias learned from the offsets of the cell to the box's edges on a log scale
    (Plain DETR, Lin et al. 2023, section 4). Both are sums of a column term and a row term.
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
        centres = memory.centres.unflatten(1, (H, W))
        columns = self._along(0, self.columns, boxes, centres[:, 0, :, 0], memory.cell)
        rows = self._along(1, self.rows, boxes, centres[:, :, 0, 1], memory.cell)
        return (rows[..., :, None] + columns[..., None, :]).flatten(3)

    def _along(self, axis: int, mlp: Mlp, boxes: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        """positions: (B, N), cell centres along an axis. Returns (B, heads, Q, N)."""
        step = cell[:, None, axis]
        centre, half = boxes[..., axis] / step, boxes[..., axis + 2] / (2 * step)  # (B, Q), in cells
        position = (positions / step)[:, None]  # (B, 1, N)
        point = centre[..., None] + half[..., None] * self.points[axis]  # (B, Q, heads)
        spread = 0.5 + half[..., None] * self.spreads[axis].abs()
        gaussian = -0.5 * ((position[..., None] - point[:, :, None]) / spread[:, :, None]) ** 2  # (B, Q, N, heads)
        edges = torch.stack([centre - half, centre + half], dim=-1)  # (B, Q, 2)
        offset = position[..., None] - edges[:, :, None]  # (B, Q, N, 2)
        offset = offset.sign() * (offset.abs() + 1).log2() / 3
        bias = gaussian + mlp(offset.to(mlp.last.weight.dtype))  # (B, Q, N, heads)
        return bias.permute(0, 3, 1, 2).contiguous()  # the layout of the larger map of both axes and of the scores
