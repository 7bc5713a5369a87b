"""The three kinds of queries: learned positions (DETR), anchors (DAB-DETR), and the best proposals (two-stage)."""

import torch
from torch import Tensor, nn

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
    contents = embedding.weight[: boxes.shape[1]].expand(len(boxes), -1, -1)
    return BoxQueries(contents, boxes.detach()), (logits, boxes)
