"""DINO's contrastive denoising (Zhang et al. 2023), beside RT-DETR's."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from densevit.interfaces import Class, Targets
from densevit.losses.boxes import overlaps, to_corners
from densevit.losses.context import LossContext
from densevit.losses.matching import Objects
from densevit.set_prediction.denoising import ContrastiveDenoising
from densevit.set_prediction.transformer import Transformer
from densevit_heads.dab_detr import DabDetr
from densevit_heads.dab_detr.extensions import Extensions
from tests.heads.padded_batch import padded_batch

CLASSES = [Class(str(i), i, (0, 0, 0)) for i in range(3)]


K, Q = 4, 5
CPU = torch.device("cpu")


def make_targets(counts: list[int]) -> list[Targets]:
    return padded_batch(counts, num_classes=K)[2]


def rt_detr(objects: Objects, count: int, embedding: torch.nn.Embedding) -> tuple[Any, ...]:
    """The same by transformers. Its embedding has a row more, for padding."""
    from transformers.models.rt_detr.modeling_rt_detr import get_contrastive_denoising_training_group

    own = [objects.image == image for image in range(len(objects.counts))]
    targets = [{"class_labels": objects.labels[mask], "boxes": objects.boxes[mask]} for mask in own]
    rows = torch.cat([embedding.weight, torch.zeros(1, embedding.embedding_dim)])
    return get_contrastive_denoising_training_group(
        targets, K, Q, lambda labels: rows[labels.long()], count, label_noise_ratio=0.0, box_noise_scale=0.4
    )


@pytest.mark.parametrize(("counts", "positives", "groups"), [([2, 0, 3], 10, 3), ([1, 4, 2], 3, 1)])
def test_groups_boxes_and_attention_match_rt_detr(
    monkeypatch: pytest.MonkeyPatch, counts: list[int], positives: int, groups: int
):
    objects = Objects.of(make_targets(counts), CPU)
    denoising = ContrastiveDenoising(8, K, positives, label_noise=0.0, box_noise=0.4)
    with monkeypatch.context() as patch:  # corners move by 2 * 0.8 - 1 = 0.6 of the limit
        patch.setattr(torch, "rand_like", lambda x, **_: torch.full_like(x, 0.8))
        found = denoising(objects, Q)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand_like", lambda x, **_: torch.full_like(x, 0.6))
        patch.setattr(torch, "randint_like", lambda x, *_, **__: torch.ones_like(x))
        contents, logits, mask, meta = rt_detr(objects, positives, denoising.label_embedding)
    assert meta["dn_num_group"] == groups and found.contents.shape == contents.shape
    at = (found.image, found.query)  # the others are padding, which no query attends to; in RT-DETR's they do
    is_padding = torch.ones(len(counts), len(mask), dtype=torch.bool)
    is_padding[at] = False
    is_padding[:, -Q:] = False
    expected = mask.expand(len(counts), 1, -1, -1).masked_fill(is_padding[:, None, None], -torch.inf)
    assert torch.equal(found.attention_bias, expected)
    torch.testing.assert_close(found.contents[at], contents[at])
    torch.testing.assert_close(found.boxes[at], logits[at].sigmoid(), atol=1e-5, rtol=1e-4)
    T = sum(counts)
    assert len(found.image) == 2 * groups * T and len(found.target) == groups * T
    for image in range(3):
        own = found.image[: groups * T] == image
        assert sorted(found.query[: groups * T][own].tolist()) == meta["dn_positive_idx"][image].tolist()


def test_the_loss_of_negative_queries_is_that_of_no_object():
    """Focal loss of all queries, boxes of the positive ones, over the number of positive queries."""
    from torchvision.ops import sigmoid_focal_loss

    torch.manual_seed(0)
    classes = [Class(str(i), i, (0, 0, 0)) for i in range(K)]
    head = DabDetr(
        (6,), (8,), classes, Q, Transformer(32, 2, 1, 2, 16), extensions=Extensions(contrastive_denoising=10)
    )
    targets = make_targets([2, 0, 3])
    mask = torch.zeros(3, 48, 64, dtype=torch.bool)
    outputs = head.train()([torch.randn(3, 6, 6, 8)], mask, targets)
    objects = Objects.of(targets, CPU)
    logits, boxes, target = outputs["denoising"]
    L, R = logits.shape[:2]
    P = 3 * 5  # 10 // 3 groups of 5 objects
    assert (L, R, len(target)) == (2, 2 * P, P)
    one_hot = F.one_hot(objects.labels[target], K).float()
    one_hot = torch.cat([one_hot, torch.zeros(P, K)])
    expected = torch.zeros(())
    for layer in range(L):
        expected = expected + sigmoid_focal_loss(logits[layer], one_hot).sum() / P
        predicted, truth = boxes[layer, :P], objects.boxes[target]
        expected = expected + 5 * (predicted - truth).abs().sum() / P
        expected = expected + 2 * (1 - overlaps(to_corners(predicted), to_corners(truth))[1]).sum() / P
    torch.testing.assert_close(head.loss(outputs, targets, LossContext())["denoising"], expected)
