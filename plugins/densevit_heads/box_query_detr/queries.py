"""Queries that are boxes: learned anchors (DAB-DETR), or the best proposals (two-stage)."""

from torch import Tensor, nn

from densevit.set_prediction.memory import Memory
from densevit.set_prediction.proposals import Proposals
from densevit.set_prediction.queries import BoxQueries


def anchor_queries(embedding: nn.Embedding, anchors: nn.Parameter, batch_size: int) -> BoxQueries:
    """Learned contents and boxes (DAB-DETR, Liu et al. 2022, section 4). anchors: (Q, 4), logits of boxes."""
    contents = embedding.weight.expand(batch_size, -1, -1)
    return BoxQueries(contents, anchors.sigmoid().expand(batch_size, -1, -1))


def proposed_queries(
    embedding: nn.Embedding, proposals: Proposals, memory: Memory
) -> tuple[BoxQueries, tuple[Tensor, Tensor]]:
    """Learned contents, and the boxes of the best proposals (Deformable DETR, Zhu et al. 2021, A.4).

    Also returns the logits (B, Q, K) and boxes (B, Q, 4) of these proposals, with their gradients. A small feature map
    gives fewer queries.
    """
    best = proposals.best(memory.tokens, memory.centres, memory.padding, embedding.num_embeddings)
    contents = embedding.weight[: best.boxes.shape[1]].expand(best.boxes.shape[0], -1, -1)
    return BoxQueries(contents, best.boxes.detach()), (best.logits, best.boxes)
