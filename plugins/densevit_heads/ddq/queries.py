"""Distinct queries (DDQ, Zhang et al. 2023): the best dense predictions that do not overlap."""

import torch
from torch import Tensor, nn

from densevit.layers.selection import SelectTop
from densevit.losses.boxes import overlaps, to_corners
from densevit.set_prediction.memory import Memory
from densevit.set_prediction.queries import BoxQueries


class DistinctQueries(nn.Module):
    """Queries from the dense predictions, without near-duplicates (DDQ, Zhang et al. 2023, section 3.2).

    Class-agnostic non-maximum suppression (NMS) removes each prediction whose IoU with a better prediction is above
    `duplicate_iou`; the best `num_queries` of the rest are the queries. If fewer remain, the best removed predictions
    follow. Contents are a linear map of the tokens of their cells: no tensor depends on the number of queries.
    """

    candidates = 4  # predictions that enter NMS, per query
    steps = 8

    def __init__(self, width: int, num_queries: int, duplicate_iou: float) -> None:
        super().__init__()
        self.num_queries, self.duplicate_iou = num_queries, duplicate_iou
        self.contents = nn.Linear(width, width)
        self.select_top = SelectTop()

    def forward(self, logits: Tensor, boxes: Tensor, memory: Memory) -> tuple[BoxQueries, Tensor]:
        """logits: (B, S, K). boxes: (B, S, 4) cxcywh. Also returns the logits of the queries, (B, Q, K).

        No gradient flows to logits and boxes.
        """
        scores = logits.detach().float().amax(-1).masked_fill(memory.padding, float("-inf"))
        cells = self.select_top(scores, self.candidates * self.num_queries)
        scores = scores.gather(1, cells)
        boxes = _rows(boxes.detach().float(), cells)
        distinct = self._distinct(to_corners(boxes)) & scores.isfinite()  # padding comes last
        rank = distinct.long() * scores.shape[1]
        rank = rank - torch.arange(scores.shape[1], device=rank.device)
        chosen = self.select_top(rank, self.num_queries)
        cells = cells.gather(1, chosen)
        queries = BoxQueries(self.contents(_rows(memory.tokens, cells)), _rows(boxes, chosen))
        return queries, _rows(logits.detach(), cells)

    def _distinct(self, corners: Tensor) -> Tensor:
        """corners: (B, N, 4) xyxy, in descending order of score. Returns (B, N) bool, the boxes that NMS keeps.

        The parallel form of greedy NMS (Cluster-NMS, Zheng et al. 2021, section 3.3), whose shapes do not depend on
        values. It is exact up to chains of `steps` boxes, each of which overlaps only the next.
        """
        iou, _ = overlaps(corners[:, :, None], corners[:, None])  # (B, N, N)
        suppressed = (iou > self.duplicate_iou).triu(1).to(corners.dtype)
        kept = torch.ones_like(suppressed[:, :1])
        for _ in range(self.steps):
            kept = (kept @ suppressed == 0).to(corners.dtype)
        return kept[:, 0] > 0


def _rows(values: Tensor, indices: Tensor) -> Tensor:
    """values: (B, S, C). indices: (B, N). Returns (B, N, C)."""
    return values.gather(1, indices[..., None].expand(-1, -1, values.shape[-1]))
