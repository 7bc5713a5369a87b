"""Heads with NMS, DDQ's of queries and the one-stage head's of predictions, against torchvision's image by image."""

import torch

from densevit.set_prediction.memory import Memory
from densevit_heads.ddq.queries import DistinctQueries


def test_queries_are_those_that_nms_keeps_in_each_image():
    from torchvision.ops import box_convert, nms

    B, S, Q = 3, 40, 8
    logits, tokens = torch.randn(B, S, 4), torch.randn(B, S, 16)
    boxes = torch.cat([0.3 + 0.4 * torch.rand(B, S, 2), 0.1 + 0.4 * torch.rand(B, S, 2)], dim=-1)
    padding = torch.zeros(B, S, dtype=torch.bool)
    padding[1, 20:] = True
    distinct = DistinctQueries(16, Q, duplicate_iou=0.4)
    cells = torch.rand(B, S, 2), torch.rand(B, 2)
    queries, scores = distinct(logits, boxes, Memory(tokens, tokens, padding, padding.float(), *cells, (1, S)))
    for i in range(B):
        score = logits[i].amax(-1).masked_fill(padding[i], float("-inf"))
        best = score.argsort(descending=True)[: 4 * Q]
        kept = best[nms(box_convert(boxes[i, best], "cxcywh", "xyxy"), score[best], 0.4)]
        assert Q < len(kept) < len(best), "NMS leaves out some, and enough remain"
        expected = kept[:Q]
        torch.testing.assert_close(queries.boxes[i], boxes[i, expected])
        torch.testing.assert_close(queries.contents[i], distinct.contents(tokens[i, expected]))
        assert torch.equal(scores[i], logits[i, expected])
