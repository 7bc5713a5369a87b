"""Dense proposals: class scores and a box from each cell of the encoder's feature maps."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from densevit.set_prediction.box_refinement import refine
from densevit.set_prediction.prediction_layers import box_head
from densevit.set_prediction.queries import TopCells


class BestProposals(NamedTuple):
    """The top-scoring proposals: logits (B, N, K), boxes (B, N, 4), and the features of their cells (B, N, C)."""

    logits: Tensor
    boxes: Tensor
    features: Tensor


class Proposals(nn.Module):
    """Predicts one object per cell, with boxes initialised to a fifth of the image (Deformable DETR, Zhu et al. 2021,
    A.4)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.label_head = nn.Linear(width, num_classes)
        self.box_head = box_head(width)
        self.top_cells = TopCells()
        nn.init.constant_(self.label_head.bias, -4.6)  # a probability of 0.01

    def forward(self, tokens: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        """tokens: (B, S, C). centres: (B, S, 2) xy. Returns logits (B, S, K) and boxes (B, S, 4) cxcywh, in 0 ... 1."""
        return self.label_head(tokens), self._boxes(tokens, centres)

    def best(self, tokens: Tensor, centres: Tensor, padding: Tensor, count: int) -> BestProposals:
        """The `count` top-scoring cells over all classes, or all cells if there are fewer.

        tokens, centres: the arguments of `forward`. padding: (B, S) bool; its cells rank below all others.
        """
        logits = self.label_head(tokens)
        logits, tokens, centres = self.top_cells(logits.amax(-1), padding, count, logits, tokens, centres)
        return BestProposals(logits, self._boxes(tokens, centres), tokens)

    def _boxes(self, tokens: Tensor, centres: Tensor) -> Tensor:
        return refine(self.box_head, tokens, torch.cat([centres, torch.full_like(centres, 0.2)], dim=-1))
