"""Uncertainty-minimal query selection (RT-DETR, Zhao et al. 2024, section 4.3)."""

from typing import NamedTuple

from torch import Tensor, nn

from densevit.layers.mlp import Mlp
from densevit.set_prediction.box_refinement import refine
from densevit.set_prediction.levels import Levels
from densevit.set_prediction.queries import TopCells
from densevit_heads.deformable_detr.prediction import EPS
from densevit_heads.deformable_detr.queries import initial_boxes


class SelectedQueries(NamedTuple):
    """The selected cells. contents: (B, Q, C), without gradient.

    logits: (B, Q, K) and boxes: (B, Q, 4) cxcywh, with gradient, for their loss.
    """

    contents: Tensor
    logits: Tensor
    boxes: Tensor


class UncertaintyMinimalSelection(nn.Module):
    """Queries from the cells with the highest class scores, which the loss of scores ties to the IoU of their boxes.

    The features that predict a cell's classes and box are also the content of its query. Uncertainty is minimal if
    classification and localisation of a cell agree, which the varifocal loss of the selected cells trains.
    Cells near the border (see `initial_boxes`) have features of 0; padding is selected last. No tensor depends on the
    number of queries.
    """

    def __init__(self, num_queries: int, width: int, label_head: nn.Linear, box_head: Mlp) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.project = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.label_head, self.box_head, self.top_cells = label_head, box_head, TopCells()
        nn.init.xavier_uniform_(self.project.weight)

    def forward(self, memory: Tensor, levels: Levels) -> SelectedQueries:
        """memory: (B, S, C). Q is `num_queries`, or the number of cells if there are fewer."""
        initial, valid = initial_boxes(levels)
        features = self.norm(self.project(memory * valid[..., None].to(memory.dtype)))
        logits = self.label_head(features)  # (B, S, K)
        scores = logits.amax(-1).float()
        logits, features, initial, valid = self.top_cells(
            scores, levels.padding, self.num_queries, logits, features, initial, valid[..., None]
        )
        boxes = refine(self.box_head, features, initial, EPS)
        return SelectedQueries(features.detach(), logits, boxes.masked_fill(~valid, 1.0))
