"""Queries with learned contents and positions from the best proposals (DINO, Zhang et al. 2023, section 3.4)."""

from torch import Tensor, nn

from densevit.layers.mlp import Mlp
from densevit.set_prediction.queries import Queries, QueryTable
from densevit.set_prediction.query_selection import TwoStage


class MixedQuerySelection(TwoStage):
    """Positions of the best proposals, and learned contents, by rank (DINO, Zhang et al. 2023, section 3.4)."""

    embedded = 1

    def __init__(
        self, num_queries: int, width: int, label_head: nn.Linear, box_head: Mlp, all_classes: bool = False
    ) -> None:
        super().__init__(num_queries, width, label_head, box_head, all_classes)
        self.contents = QueryTable(num_queries, width)

    def queries(self, boxes: Tensor) -> Queries:
        """Queries with positions of boxes (B, Q, 4), and the first Q contents."""
        B, Q = boxes.shape[:2]
        return Queries(self.contents.weight[:Q].expand(B, -1, -1), self.positions(boxes))


class RefinedPositions(MixedQuerySelection):
    """Mixed query selection whose positions follow the boxes (DAB-DETR, Liu et al. 2022, section 4.2; DINO).

    A position is an MLP of the sine encoding of a box; the decoder computes it for the boxes that each layer gets.
    """

    def _embedding_layers(self) -> tuple[nn.Module, nn.Module]:
        return Mlp(2 * self.width, self.width, self.width, 2), nn.Identity()
