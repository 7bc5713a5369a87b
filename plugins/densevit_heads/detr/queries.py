"""The kinds of queries: learned positions (DETR), anchors (DAB-DETR), the best proposals (two-stage), and distinct
dense predictions (DDQ).
"""

import torch
from torch import Tensor, nn

from densevit.layers.selection import SelectTop
from densevit.losses.boxes import overlaps, to_corners
from densevit_heads.detr.memory import Memory
from densevit_heads.set_prediction.proposals import Proposals
from densevit_heads.set_prediction.queries import BoxQueries, Queries


def learned_queries(embedding: nn.Embedding, batch_size: int) -> Queries:
    """Learned positions, and contents that are zero (Carion et al. 2020, section 3.2)."""
    positions = embedding.weight.expand(batch_size, -1, -1)
    return Queries(torch.zeros_like(positions), positions)


def anchor_queries(embedding: nn.Embedding, anchors: nn.Parameter, batch_size: int) -> BoxQueries:
    """Learned contents and boxes (DAB-DETR, Liu et al. 2022, section 4). anchors: (Q, 4), logits of boxes."""
    contents = embedding.weight.expand(batch_size, -1, -1)
    return BoxQueries(contents, anchors.sigmoid().expand(batch_size, -1, -1))


def proposed_queries(
    embedding: nn.Embedding, proposals: Proposals, memory: Memory
) -> tuple[BoxQueries, tuple[Tensor, Tensor]]:
    """Learned contents, and the boxes of the best proposals (Deformable DETR, Zhu et al. 2021, A.4).

    Also returns the logits (B, Q, K) and boxes (B, Q, 4) of these proposals, with their gradients. A small feature map
    has fewer cells, and gives fewer queries.
    """
    logits, boxes = proposals.best(memory.tokens, memory.centres, memory.padding, embedding.num_embeddings)
    contents = embedding.weight[: boxes.shape[1]].expand(boxes.shape[0], -1, -1)
    return BoxQueries(contents, boxes.detach()), (logits, boxes)


class DistinctQueries(nn.Module):
    """Queries from the dense predictions, without near-duplicates (DDQ, Zhang et al. 2023, section 3.2).

    Class-agnostic non-maximum suppression (NMS) leaves out a prediction that overlaps one of higher score by an IoU
    above `threshold`; the `num_queries` best of the others are the queries. If fewer remain, the best of those left out
    follow. Contents are a linear map of the tokens of their cells.
    """

    candidates = 4  # predictions that enter NMS, per query
    steps = 8

    def __init__(self, width: int, num_queries: int, threshold: float) -> None:
        super().__init__()
        self.num_queries, self.threshold = num_queries, threshold
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
        suppressed = (iou > self.threshold).triu(1).to(corners.dtype)
        kept = torch.ones_like(suppressed[:, :1])
        for _ in range(self.steps):
            kept = (kept @ suppressed == 0).to(corners.dtype)
        return kept[:, 0] > 0


def _rows(values: Tensor, indices: Tensor) -> Tensor:
    """values: (B, S, C). indices: (B, N). Returns (B, N, C)."""
    return values.gather(1, indices[..., None].expand(-1, -1, values.shape[-1]))
