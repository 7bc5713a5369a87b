"""Queries that are boxes: their positions, their refinement, and where they make cross-attention look."""

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
        return self.mlp(sine_boxes(boxes, self.channels))


class BoxPositionBias(nn.Module):
    """What cross-attention adds to a query's scores for where a cell lies relative to its box (Plain DETR, Lin et al. 2023, section 4).

    The offsets of a cell's column from the box's left and right edge, and of its row from top and bottom, each go through a
    small perceptron on a log scale; a cell's bias is the sum of its column's and its row's.
    """

    def __init__(self, num_heads: int, hidden: int = 64) -> None:
        super().__init__()
        self.columns = Mlp(2, hidden, num_heads, 2)
        self.rows = Mlp(2, hidden, num_heads, 2)

    def forward(self, boxes: Tensor, memory: Memory) -> Tensor:
        """boxes: (B, Q, 4) cxcywh. Returns (B, heads, Q, S)."""
        H, W = memory.size
        B, Q, _ = boxes.shape
        centres = memory.centres.view(B, H, W, 2)
        biases = []
        for axis, mlp, places in ((0, self.columns, centres[:, 0, :, 0]), (1, self.rows, centres[:, :, 0, 1])):
            middle, half = boxes[..., axis], boxes[..., axis + 2] / 2
            edges = torch.stack([middle - half, middle + half], dim=-1)  # (B, Q, 2)
            offset = (places[:, None, :, None] - edges[:, :, None]) / memory.cell[:, None, None, axis, None] # in cells
            offset = offset.sign() * (offset.abs() + 1).log2() / 3
            biases.append(mlp(offset).permute(0, 3, 1, 2))  # (B, heads, Q, W or H)
        return (biases[1][..., :, None] + biases[0][..., None, :]).flatten(3)
