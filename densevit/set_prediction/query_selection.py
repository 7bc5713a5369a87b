"""Query selection: queries from the best cells of the encoder's maps.

Two stages (Deformable DETR, Zhu et al. 2021, A.4) and uncertainty-minimal selection (RT-DETR, Zhao et al. 2024, section
4.3).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from densevit.layers.mlp import Mlp
from densevit.layers.positions import sine_boxes
from densevit.set_prediction.box_refinement import refine
from densevit.set_prediction.levels import Levels
from densevit.set_prediction.prediction_layers import EPS
from densevit.set_prediction.queries import Queries, TopCells

MARGIN = 0.01  # share of the image; see `initial_boxes`


class CellProposals(NamedTuple):
    """A proposal for each cell.

    logits: (B, S, K); of all classes, or the first logit tells objects from background.
    boxes: (B, S, 4) cxcywh. padding: (B, S) bool.
    """

    logits: Tensor
    boxes: Tensor
    padding: Tensor


def initial_boxes(levels: Levels) -> tuple[Tensor, Tensor]:
    """Boxes (B, S, 4) cxcywh at the cells' centres, with sides of 0.05 * 2^level, level 0 being the largest map, and
    whether a cell proposes its box, (B, S).

    Cells of padding, and cells with a centre or side outside of `MARGIN` ... 1 - `MARGIN`, propose nothing.
    """
    centres = levels.centres.split([height * width for height, width in levels.shapes], dim=1)
    sides = [torch.full_like(x, 0.05 * 2.0**level) for level, x in enumerate(centres)]
    boxes = torch.cat([levels.centres, torch.cat(sides, dim=1)], dim=-1)
    return boxes, ((boxes > MARGIN) & (boxes < 1 - MARGIN)).all(-1) & ~levels.padding


class TwoStage(nn.Module):
    """The encoder proposes a box from each cell; the best ones become queries ("two-stage Deformable DETR", A.4).

    No tensor depends on the number of queries.
    all_classes: proposals are ranked by their best class, as in DINO, instead of by the first logit.
    padding_last: proposals of padding come after all others; False: they are ranked by features of 0, as in the
    authors' code.
    """

    embedded = 2  # embeddings per box: position and content

    def __init__(
        self,
        num_queries: int,
        width: int,
        label_head: nn.Linear,
        box_head: Mlp,
        all_classes: bool = False,
        padding_last: bool = True,
    ) -> None:
        super().__init__()
        self.num_queries, self.width = num_queries, width
        self.all_classes, self.padding_last = all_classes, padding_last
        self.project = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.label_head, self.box_head, self.top_cells = label_head, box_head, TopCells()
        self.embed, self.embed_norm = self._embedding_layers()
        for layer in (self.project, *self.embed.modules()):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)

    def _embedding_layers(self) -> tuple[nn.Module, nn.Module]:
        """A linear layer on the sine encoding of a box (2C), and a layer norm."""
        return nn.Linear(2 * self.width, self.embedded * self.width), nn.LayerNorm(self.embedded * self.width)

    def propose(self, memory: Tensor, levels: Levels) -> CellProposals:
        """memory: (B, S, C). Boxes start from `initial_boxes`.

        Cells of padding or near the border have features of 0 and a box of no size at the bottom right.
        """
        initial, valid = initial_boxes(levels)
        features = self.norm(self.project(memory.masked_fill(~valid[..., None], 0.0)))
        boxes = refine(self.box_head, features, initial, EPS)
        return CellProposals(self.label_head(features), boxes.masked_fill(~valid[..., None], 1.0), levels.padding)

    def best(self, proposals: CellProposals) -> tuple[Tensor, Tensor]:
        """Logits (B, Q, K) and boxes (B, Q, 4) of the `num_queries` proposals with the highest scores, or of all."""
        scores = (proposals.logits.amax(-1) if self.all_classes else proposals.logits[..., 0]).float()
        last = proposals.padding if self.padding_last else torch.zeros_like(proposals.padding)
        logits, boxes = self.top_cells(scores, last, self.num_queries, proposals.logits, proposals.boxes)
        return logits, boxes

    def queries(self, boxes: Tensor) -> Queries:
        """Queries with positions and contents of boxes (B, Q, 4)."""
        positions, contents = self._embedding(boxes).split(self.width, dim=-1)
        return Queries(contents, positions)

    def positions(self, boxes: Tensor) -> Tensor:
        """Positions (B, D, C) of boxes (B, D, 4)."""
        return self._embedding(boxes)[..., : self.width]

    def _embedding(self, boxes: Tensor) -> Tensor:
        sines = sine_boxes(boxes, self.width // 2, temperature=10000.0)  # (B, Q, 2C)
        return self.embed_norm(self.embed(sines.to(self.project.weight.dtype)))


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
