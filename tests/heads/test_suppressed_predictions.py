"""Heads with NMS, DDQ's of queries and the one-stage head's of predictions, against torchvision's image by image."""

import pytest
import torch
from torch import Tensor

from densevit.interfaces import Class, Targets
from densevit.losses.context import LossContext
from densevit.losses.dense_detection import dense_detection
from densevit.losses.matching import Objects
from densevit.set_prediction.memory import Memory
from densevit.set_prediction.transformer import Transformer
from densevit_heads.ddq import Ddq
from densevit_heads.ddq.queries import DistinctQueries
from densevit_heads.one_stage import OneStage
from densevit_heads.one_stage.nms import CANDIDATES, suppressed_predictions
from tests.heads.padded_batch import padded_batch, perturbed

CLASSES = [Class(str(i), i, (0, 0, 0)) for i in range(3)]
TRANSFORMER = Transformer(16, 2, feedforward=24, dropout=0.0)
DDQ_OPTIONS = {"num_queries": 6, "stride": 8, "fusion_blocks": 0, "position_bias": False, "dense_loss": 1.0}


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
    head = Ddq([6], [8], CLASSES, transformer=TRANSFORMER, **DDQ_OPTIONS).train()
    for parameter in (head.label_head.weight, head.box_head.last.weight, head.dense.box_head.last.weight):
        torch.nn.init.normal_(parameter)  # else nothing before them learns in the first step
    losses = head.loss(head(features, mask, targets), targets, LossContext())
    (losses["label"] + losses["l1"] + losses["giou"]).backward()
    assert all(p.grad is None or not p.grad.any() for p in head.dense.parameters())


def test_predictions_are_those_that_nms_keeps_of_each_image_and_class():
    from torchvision.ops import box_convert, nms

    torch.manual_seed(0)
    B, S, K = 3, 60, 4
    boxes = torch.cat([0.3 + 0.4 * torch.rand(B, S, 2), 0.05 + 0.3 * torch.rand(B, S, 2)], dim=-1)
    padding = torch.zeros(B, S, dtype=torch.bool)
    padding[1, 30:] = True
    outputs = {"logits": torch.randn(B, S, K), "boxes": boxes, "padding": padding}
    targets: list[Targets] = [{"image_id": i, "original_size": (50 + 10 * i, 80)} for i in range(B)]
    found = suppressed_predictions(outputs, targets, 0.5, 100)
    for i in range(B):
        height, width = targets[i]["original_size"]
        corners = box_convert(boxes[i], "cxcywh", "xyxy").clamp(0, 1) * torch.tensor([width, height, width, height])
        rows = []
        for k in range(K):
            scores = outputs["logits"][i, :, k].sigmoid().masked_fill(padding[i], 0)
            for cell in nms(corners, scores, 0.5).tolist():
                if not padding[i, cell]:
                    rows.append((scores[cell].item(), k, corners[cell].tolist()))
        rows = sorted(rows, reverse=True)[:100]
        assert found[i]["labels"].tolist() == [k for _, k, _ in rows]
        torch.testing.assert_close(found[i]["scores"], torch.tensor([score for score, _, _ in rows]))
        torch.testing.assert_close(found[i]["boxes"], torch.tensor([box for _, _, box in rows]))


def test_only_the_best_pairs_enter_nms():
    S = CANDIDATES + 200
    boxes = torch.cat([torch.rand(1, S, 2), torch.full((1, S, 2), 1e-4)], dim=-1)
    outputs = {"logits": torch.randn(1, S, 1), "boxes": boxes, "padding": torch.zeros(1, S, dtype=torch.bool)}
    (found,) = suppressed_predictions(outputs, [{"image_id": 0, "original_size": (100, 100)}], 0.9, 5000)
    assert len(found["scores"]) == CANDIDATES
    torch.testing.assert_close(
        found["scores"], outputs["logits"].sigmoid().flatten().sort(descending=True)[0][:CANDIDATES]
    )


def test_losses_are_those_of_the_dense_loss_with_detr_s_weights():
    features, mask, targets = padded_batch()
    head = perturbed(OneStage([6], [8], CLASSES, width=16, fusion_blocks=1)).train()
    outputs = head(features, mask, targets)
    losses = head.loss(outputs, targets, LossContext())
    cells = [outputs[key] for key in ("logits", "boxes", "centres", "padding")]
    label, l1, giou = dense_detection(*cells, Objects.of(targets, torch.device("cpu")), LossContext())
    assert losses == {"label": label, "l1": 5 * l1, "giou": 2 * giou}
    sum(losses.values()).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []
