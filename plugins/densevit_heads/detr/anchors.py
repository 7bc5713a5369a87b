"""Queries that are boxes: their positions, their refinement, and where they make cross-attention look."""

import math

import torch
from torch import Tensor, nn

from densevit.layers.mlp import Mlp
from densevit.layers.positions import sine_boxes
from densevit_heads.detr.memory import Memory


def inverse_sigmoid(x: Tensor, eps: float = 1e-4) -> Tensor:
    """The logit of a number in 0 ... 1, kept away from both ends."""
    x = x.clamp(eps, 1 - eps)
    return (x / (1 - x)).log()


class BoxPositions(nn.Module):
    """Turns a box into a query's position vector (DAB-DETR, Liu et al. 2022, section 4.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = width // 2
        self.mlp = Mlp(2 * width, width, width, 2)

    def forward(self, boxes: Tensor) -> Tensor:
        """boxes: (B, Q, 4) cxcywh. Returns (B, Q, C)."""
        return self.mlp(sine_boxes(boxes, self.channels).to(self.mlp.last.weight.dtype))


class BoxPositionBias(nn.Module):
    """What cross-attention adds to a query's scores for where a cell lies relative to its box.

    A bell over the box, in each head about another point of it, lets a query look where its box is from the first step
    on (SMCA, Gao et al. 2021, section 3.2). To it comes what is learned of the offsets of a cell's column from the
    box's left and right edge, and of its row from top and bottom, on a log scale (Plain DETR, Lin et al. 2023, section
    4). Both are sums of a column's and a row's share.
    """

    def __init__(self, num_heads: int, hidden: int = 64) -> None:
        super().__init__()
        angle = torch.arange(num_heads) * (2 * math.pi / num_heads)
        self.points = nn.Parameter(0.7 * torch.stack([angle.cos(), angle.sin()]))  # (2, heads), in half boxes
        self.spreads = nn.Parameter(torch.full((2, num_heads), 0.6))  # the bells' deviations, in half boxes
        self.columns = Mlp(2, hidden, num_heads, 2)
        self.rows = Mlp(2, hidden, num_heads, 2)
        for mlp in (self.columns, self.rows):  # it begins with the bells alone
            nn.init.zeros_(mlp.last.weight)
            nn.init.zeros_(mlp.last.bias)

    def forward(self, boxes: Tensor, memory: Memory) -> Tensor:
        """boxes: (B, Q, 4) cxcywh. Returns (B, heads, Q, S)."""
        H, W = memory.size
        centres = memory.centres.unflatten(1, (H, W))
        columns = self._along(0, self.columns, boxes, centres[:, 0, :, 0], memory.cell)
        rows = self._along(1, self.rows, boxes, centres[:, :, 0, 1], memory.cell)
        return (rows[..., :, None] + columns[..., None, :]).flatten(3)

    def _along(self, axis: int, mlp: Mlp, boxes: Tensor, places: Tensor, cell: Tensor) -> Tensor:
        """places: (B, N), the cells' centres along an axis. Returns (B, heads, Q, N)."""
        step = cell[:, None, axis]
        middle, half = boxes[..., axis] / step, boxes[..., axis + 2] / (2 * step)  # (B, Q), in cells
        here = (places / step)[:, None]  # (B, 1, N)
        point = middle[..., None] + half[..., None] * self.points[axis]  # (B, Q, heads)
        spread = 0.5 + half[..., None] * self.spreads[axis].abs()
        bell = -0.5 * ((here[..., None] - point[:, :, None]) / spread[:, :, None]) ** 2  # (B, Q, N, heads)
        edges = torch.stack([middle - half, middle + half], dim=-1)  # (B, Q, 2)
        offset = here[..., None] - edges[:, :, None]  # (B, Q, N, 2)
        offset = offset.sign() * (offset.abs() + 1).log2() / 3
        return (bell + mlp(offset.to(mlp.last.weight.dtype))).permute(0, 3, 1, 2)
