"""Object queries: learned, or from the encoder's best proposals (two-stage, A.4)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.mlp import Mlp
from densevit.layers.positions import sine_boxes
from densevit.layers.precision import at_least_fp32, autocast_off
from densevit.set_prediction.box_refinement import refine
from densevit.set_prediction.levels import Levels
from densevit.set_prediction.queries import Queries, QueryTable, TopCells
from densevit_heads.deformable_detr.prediction import EPS

MARGIN = 0.01  # share of the image; see `initial_boxes`


class LearnedQueries(nn.Module):
    """Learned positions and contents; the reference point is predicted from the position (A.2)."""

    def __init__(self, num_queries: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.embedding = QueryTable(num_queries, 2 * width)  # positions, then contents
        self.reference = nn.Linear(width, 2)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)

    def forward(self, batch_size: int) -> tuple[Queries, Tensor]:
        """Returns the same Q queries and reference points (B, Q, 2), xy in 0 ... 1, for each image."""
        positions, contents = self.embedding.weight.split(self.width, dim=-1)
        with autocast_off(positions.device):
            reference = F.linear(*(at_least_fp32(x) for x in (positions, self.reference.weight, self.reference.bias)))
        contents, positions, points = (x.expand(batch_size, -1, -1) for x in (contents, positions, reference.sigmoid()))
        return Queries(contents, positions), points


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
    """The encoder proposes a box from each cell; the best ones become queries (A.4, "two-stage Deformable DETR").

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
        embedded: Tensor = self.embed_norm(self.embed(sines.to(self.project.weight.dtype)))
        return embedded
