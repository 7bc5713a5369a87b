"""Distinct queries (DDQ, Zhang et al. 2023, section 3.2) against torchvision's NMS image by image."""

import pytest
import torch
from torch import Tensor

from densevit.interfaces import Class
from densevit.losses.context import LossContext
from densevit.set_prediction.memory import Memory
from densevit.set_prediction.transformer import Transformer
from densevit_heads.ddq import Ddq
from densevit_heads.ddq.queries import DistinctQueries
from tests.heads.padded_batch import padded_batch

CLASSES = [Class(str(i), i, (0, 0, 0)) for i in range(3)]
OPTIONS = {"num_queries": 6, "transformer": Transformer(16, 2, feedforward=24, dropout=0.0), "stride": 8,
           "fusion_blocks": 0, "position_bias": False, "dense_loss": 1.0}  # fmt: skip


def memory_of(tokens: Tensor, padding: Tensor) -> Memory:
    B, S, _ = tokens.shape
    return Memory(tokens, tokens, padding, padding.float(), torch.rand(B, S, 2), torch.rand(B, 2), (1, S))


def test_queries_are_those_that_nms_keeps_in_each_image():
    from torchvision.ops import box_convert, nms

    torch.manual_seed(0)
    B, S, Q = 3, 40, 8
    logits, tokens = torch.randn(B, S, 4), torch.randn(B, S, 16)
    boxes = torch.cat([0.3 + 0.4 * torch.rand(B, S, 2), 0.1 + 0.4 * torch.rand(B, S, 2)], dim=-1)
    padding = torch.zeros(B, S, dtype=torch.bool)
    padding[1, 20:] = True
    distinct = DistinctQueries(16, Q, duplicate_iou=0.4)
    queries, scores = distinct(logits, boxes, memory_of(tokens, padding))
    for i in range(B):
        score = logits[i].amax(-1).masked_fill(padding[i], float("-inf"))
        best = score.argsort(descending=True)[: 4 * Q]
        corners = box_convert(boxes[i, best], "cxcywh", "xyxy")
        kept = best[nms(corners, score[best], 0.4)]
        assert Q < len(kept) < len(best), "NMS leaves out some, and enough remain"
        expected = kept[:Q]
        torch.testing.assert_close(queries.boxes[i], boxes[i, expected])
        torch.testing.assert_close(queries.contents[i], distinct.contents(tokens[i, expected]))
        assert torch.equal(scores[i], logits[i, expected])


def test_the_best_of_those_left_out_fill_up():
    """Two objects, with three predictions each: the second best of each follow the best."""
    boxes = torch.tensor([[0.3, 0.3, 0.2, 0.2]] * 3 + [[0.7, 0.7, 0.2, 0.2]] * 3)[None]
    logits = torch.tensor([3.0, 2.0, 1.0, 2.9, 1.9, 0.9])[None, :, None]
    tokens = torch.arange(6.0)[None, :, None].expand(-1, -1, 4)
    queries, scores = DistinctQueries(4, 4, 0.7)(logits, boxes, memory_of(tokens, torch.zeros(1, 6, dtype=torch.bool)))
    assert scores[0, :, 0].tolist() == pytest.approx([3.0, 2.9, 2.0, 1.9])
    torch.testing.assert_close(queries.boxes[0, :, 0], torch.tensor([0.3, 0.7, 0.3, 0.7]))


def test_dense_predictions_learn_from_the_dense_loss_alone():
    features, mask, targets = padded_batch()
    head = Ddq([6], [8], CLASSES, **OPTIONS).train()
    for parameter in (head.label_head.weight, head.box_head.last.weight, head.dense.box_head.last.weight):
        torch.nn.init.normal_(parameter)  # else nothing before them learns in the first step
    losses = head.loss(head(features, mask, targets), targets, LossContext())
    (losses["label"] + losses["l1"] + losses["giou"]).backward()
    assert all(p.grad is None or not p.grad.any() for p in head.dense.parameters())
